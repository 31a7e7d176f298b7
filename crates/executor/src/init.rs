//! The first process of a container, between clone and exec.
//!
//! ```text
//! join cgroups ▸ namespaces ▸ session ▸ root ▸ mounts ▸ devices ▸ streams
//!   ▸ masks ▸ names and sysctls ▸ change root ▸ process (see `process`)
//! ```

use crate::ProcessStdio;
use crate::devices;
use crate::masks::{self, Masks};
use crate::mounts;
use crate::plan::InitPlan;
use crate::process::Gate;
use crate::procfs::Procfs;
use crate::report::{Failure, Reporter};
use crate::rootfs;
use crate::stdio::{self, Streams};
use crate::step::Step;
use berth_cgroups::{HierarchyPath, JoinHandles};
use berth_kernel::rustix::fs::Mode;
use berth_kernel::{AttributeChange, Errno, Namespace, NamespaceSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What the child takes over from the runtime's memory.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    pub(crate) plan: &'a InitPlan,
    pub(crate) stdio: &'a ProcessStdio,
    pub(crate) join: &'a JoinHandles,
    pub(crate) cgroups: &'a [HierarchyPath],
    pub(crate) no_pivot: bool,
    pub(crate) start_socket: Option<BorrowedFd<'a>>,
}

impl Init<'_> {
    /// Becomes the container's process; returns only what failed.
    pub(crate) fn run(&self, reporter: &Reporter, in_unified: bool) -> Failure {
        match self.set_up(reporter, in_unified) {
            Ok((procfs, streams)) => {
                let gate = Gate::Closed(self.start_socket);
                self.plan.process.run(&procfs, streams, reporter, gate)
            }
            Err(failure) => failure,
        }
    }

    fn set_up(&self, reporter: &Reporter, in_unified: bool) -> Result<(Procfs, Streams), Failure> {
        join_cgroup(self.join, in_unified)?;
        self.join_namespaces()?;
        berth_kernel::rustix::process::setsid().map_err(Failure::of(Step::StartSession, ""))?;
        berth_kernel::rustix::process::umask(Mode::empty());
        let procfs = Procfs::new().map_err(Failure::of(Step::MakeProcfs, ""))?;

        let root = rootfs::mount(&self.plan.root)?;
        for mount in &self.plan.mounts {
            mounts::mount(root.as_fd(), mount, self.cgroups)?;
        }
        let streams = self.make_devices(&root, reporter)?;
        self.hide(&root)?;
        if self.plan.read_only_root {
            rootfs::protect(&root)?;
        }
        self.set_names(&procfs)?;
        let change_root = if self.no_pivot {
            berth_kernel::move_into
        } else {
            berth_kernel::pivot_into
        };
        change_root(&root).map_err(Failure::of(Step::ChangeRoot, ""))?;
        self.set_propagation(&root)?;
        Ok((procfs, streams))
    }

    fn join_namespaces(&self) -> Result<(), Failure> {
        let namespaces = &self.plan.namespaces;
        for (kind, path, fd) in &namespaces.joined {
            // The runtime cloned this process into that one.
            if *kind != Namespace::Pid {
                berth_kernel::join(fd, NamespaceSet::EMPTY.with(*kind))
                    .map_err(Failure::at(Step::JoinNamespace, path))?;
            }
        }
        // Only now: its root is the cgroup that the maker is in.
        if namespaces.new.contains(Namespace::Cgroup) {
            berth_kernel::unshare(NamespaceSet::EMPTY.with(Namespace::Cgroup))
                .map_err(Failure::of(Step::MakeCgroupNamespace, ""))?;
        }
        Ok(())
    }

    fn make_devices(&self, root: &OwnedFd, reporter: &Reporter) -> Result<Streams, Failure> {
        for device in &self.plan.devices {
            devices::make(root.as_fd(), device)?;
        }
        if self.plan.link_devices {
            devices::link(root.as_fd())?;
        }
        let window = self.plan.process.window;
        let streams = stdio::open(root.as_fd(), self.stdio, window, reporter)?;
        if let Streams::Terminal { slave } = &streams {
            stdio::attach_console(root.as_fd(), slave)?;
        }
        Ok(streams)
    }

    fn hide(&self, root: &OwnedFd) -> Result<(), Failure> {
        for path in &self.plan.read_only {
            masks::protect(root.as_fd(), path)?;
        }
        let mut masks = Masks::default();
        for path in &self.plan.masked {
            masks.cover(root.as_fd(), path)?;
        }
        Ok(())
    }

    fn set_names(&self, procfs: &Procfs) -> Result<(), Failure> {
        if let Some(name) = &self.plan.hostname {
            berth_kernel::set_hostname(name).map_err(Failure::of(Step::SetHostname, name))?;
        }
        if let Some(name) = &self.plan.domainname {
            berth_kernel::set_domainname(name).map_err(Failure::of(Step::SetHostname, name))?;
        }
        for (path, value) in &self.plan.sysctls {
            procfs
                .write(path, value)
                .map_err(Failure::at(Step::SetSysctl, path))?;
        }
        Ok(())
    }

    fn set_propagation(&self, root: &OwnedFd) -> Result<(), Failure> {
        let Some(propagation) = self.plan.root_propagation else {
            return Ok(());
        };
        let change = AttributeChange {
            propagation: Some(propagation),
            ..AttributeChange::default()
        };
        berth_kernel::set_attributes(root, &change, None, false)
            .map_err(Failure::at(Step::SetPropagation, Path::new("/")))
    }
}

/// Moves the calling process into the container's cgroup: in the v1
/// hierarchies, and in the unified tree if it was not cloned into it.
pub(crate) fn join_cgroup(join: &JoinHandles, in_unified: bool) -> Result<(), Failure> {
    let mut joined = join.join_self();
    if joined.is_ok() && !in_unified {
        joined = join.join_unified();
    }
    joined.map_err(|failure| {
        let path = join.path(failure).unwrap_or(Path::new("")).to_owned();
        Failure::at(Step::JoinCgroup, &path)(Errno::from_raw_os_error(failure.errno))
    })
}
