//! The child that becomes criu, in a mount namespace where the container's root is mounted and
//! nothing of it is left when criu ends.

use super::{Restore, is_nested};
use crate::error::{Error, Result};
use crate::init::join_cgroup;
use crate::mounts::{MountKind, MountPlan};
use crate::places::{self, PlaceKind};
use crate::plan::InitPlan;
use crate::report::Failure;
use crate::rootfs;
use crate::step::Step;
use berth_cgroups::JoinHandles;
use berth_kernel::rustix::fs::{CWD, Mode, OFlags, openat};
use berth_kernel::rustix::io::{FdFlags, fcntl_setfd};
use berth_kernel::{Errno, Execution, Namespace, NamespaceSet};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Where criu finds tar, gzip and the like if the environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SIGKILL: i32 = 9;

/// All that is known before the clone.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    plan: &'a InitPlan,
    join: &'a JoinHandles,
    criu: CString,
    execution: Execution,
    /// Descriptors that criu gets, by their numbers here.
    kept: Vec<BorrowedFd<'a>>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        restore: &'a Restore<'_>,
        plan: &'a InitPlan,
        join: &'a JoinHandles,
        socket: &'a OwnedFd,
        handed: &[(String, i32)],
    ) -> Result<Self> {
        let host = |operation| Error::host(restore.create.id, operation);
        let criu = CString::new(restore.criu.as_os_str().as_bytes());
        let criu = criu.map_err(|_| host("use the path of criu")(Errno::INVAL))?;
        let path = std::env::var("PATH").unwrap_or_else(|_| PATH.to_owned());
        let number = socket.as_raw_fd().to_string();
        let execution = Execution::new(&["criu", "swrk", &number], &[format!("PATH={path}")]);
        let execution = execution.map_err(|_| host("use PATH")(Errno::INVAL))?;
        let mut kept = vec![socket.as_fd()];
        let is_handed = |fd: &dyn AsFd| {
            let number = fd.as_fd().as_raw_fd();
            handed.iter().any(|(_, handed)| *handed == number)
        };
        for (_, _, fd) in &plan.namespaces.joined {
            if is_handed(fd) {
                kept.push(fd.as_fd());
            }
        }
        for file in restore.create.stdio.files().into_iter().flatten() {
            if is_handed(file) {
                kept.push(file.as_fd());
            }
        }
        Ok(Self {
            plan,
            join,
            criu,
            execution,
            kept,
        })
    }

    /// Becomes criu; returns only what failed.
    pub(super) fn run(&self, in_unified: bool) -> Failure {
        match self.prepare(in_unified) {
            Ok(()) => {
                let errno = self.execution.run(&self.criu);
                Failure::of(Step::Execute, &self.criu.to_string_lossy())(errno)
            }
            Err(failure) => failure,
        }
    }

    fn prepare(&self, in_unified: bool) -> std::result::Result<(), Failure> {
        join_cgroup(self.join, in_unified)?;
        let root = rootfs::attach(rootfs::make(&self.plan.root, None)?)?;
        for mount in &self.plan.mounts {
            if !is_nested(mount, &self.plan.mounts) {
                make_place(&root, mount)?;
            }
        }
        // What is restored stays in it: criu is told to leave cgroups alone.
        if self.plan.namespaces.new.contains(Namespace::Cgroup) {
            berth_kernel::unshare(NamespaceSet::EMPTY.with(Namespace::Cgroup))
                .map_err(Failure::of(Step::MakeCgroupNamespace, ""))?;
        }
        let failed = || Failure::of(Step::ConnectStreams, "");
        let null = openat(
            CWD,
            "/dev/null",
            OFlags::RDWR | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let null = null.map_err(failed())?;
        for number in 0..=2 {
            berth_kernel::duplicate_onto(&null, number).map_err(failed())?;
        }
        for fd in &self.kept {
            fcntl_setfd(fd, FdFlags::empty()).map_err(failed())?;
        }
        berth_kernel::reset_signals().map_err(failed())?;
        berth_kernel::set_parent_death_signal(SIGKILL).map_err(failed())
    }
}

/// A place for a mount that the root lacks, as at the making of a container.
fn make_place(root: &OwnedFd, mount: &MountPlan) -> std::result::Result<(), Failure> {
    let failed = || Failure::at(Step::MakeMountPoint, &mount.destination);
    let kind = match &mount.kind {
        MountKind::Bind { source, .. } => {
            let opened = openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            let opened = opened.map_err(Failure::at(Step::OpenMountSource, source))?;
            match places::is_directory(&opened).map_err(failed())? {
                true => PlaceKind::Directory,
                false => PlaceKind::File,
            }
        }
        MountKind::Cgroup | MountKind::Filesystem { .. } => PlaceKind::Directory,
    };
    places::find_or_make(root.as_fd(), &mount.destination, kind)
        .map(drop)
        .map_err(failed())
}
