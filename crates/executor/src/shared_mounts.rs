//! A container in a mount namespace that is not its own: the runtime's, when
//! the spec names none, or one that it joins.
//!
//! ```text
//! (the shared namespace) ▸ a copy of it ▸ root and mounts, there
//!   ▸ a clone of the root, attached nowhere ▸ the shared namespace ▸ chroot
//! ```
//!
//! The root is a clone whose only users are the container's processes. The
//! shared namespace gets no mount of the container, not even for a moment, so
//! that nothing has to be taken away again: neither at delete, nor after a
//! create that failed or was killed. Unlike a plain chroot, the clone has
//! nothing above it that a process with `CAP_SYS_CHROOT` could climb to.
//!
//! It has its price: to the kernel these mounts are nobody's. They are in no
//! mount table, nothing can be mounted on them, mounts do not travel to them,
//! and set-user-id bits and file capabilities on them have no effect.

use crate::error::Result;
use crate::mounts::MountPlan;
use crate::namespaces::NamespacePlan;
use crate::refuse::Refuse;
use crate::report::Failure;
use crate::step::Step;
use berth_kernel::rustix::fs::{Mode, OFlags};
use berth_kernel::{Namespace, NamespaceSet, Propagation};
use oci_spec::runtime::Linux;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

const MOUNT: NamespaceSet = NamespaceSet::EMPTY.with(Namespace::Mount);
const PROBLEM: &str = "needs a mount namespace of the container's own";

/// Refuses what a root that is attached nowhere cannot have.
pub(crate) fn check(
    refuse: Refuse<'_>,
    namespaces: &NamespacePlan,
    linux: &Linux,
    mounts: &[MountPlan],
) -> Result<()> {
    if namespaces.shared_mounts().is_none() {
        return Ok(());
    }
    if namespaces.own().contains(Namespace::User) {
        // Its root has no rights over a mount namespace of the host's.
        return Err(refuse.invalid("linux.namespaces", "user", PROBLEM));
    }
    let word = linux.rootfs_propagation().as_deref().unwrap_or_default();
    if !matches!(word, "" | "private" | "rprivate") {
        return Err(refuse.invalid("linux.rootfsPropagation", word, PROBLEM));
    }
    let travels = |mount: &&MountPlan| {
        let propagation = mount.options.propagation;
        propagation.is_some_and(|(propagation, _)| propagation != Propagation::Private)
    };
    match mounts.iter().find(travels) {
        Some(mount) => {
            let place = mount.destination.display();
            let problem = "propagates, which needs a mount namespace of the container's own";
            Err(refuse.invalid("mounts", place, problem))
        }
        None => Ok(()),
    }
}

/// Moves the calling process to a copy of the shared namespace, in which it
/// may mount what it likes.
pub(crate) fn leave(namespaces: &NamespacePlan) -> std::result::Result<(), Failure> {
    for (kind, path, fd) in &namespaces.joined {
        if *kind == Namespace::Mount {
            berth_kernel::join(fd, MOUNT).map_err(Failure::at(Step::JoinNamespace, path))?;
        }
    }
    berth_kernel::unshare(MOUNT).map_err(Failure::of(Step::CopyMountNamespace, ""))
}

/// Brings the calling process back to the shared namespace, with a clone of
/// the finished root as its root.
pub(crate) fn enter(root: &OwnedFd, shared: &OwnedFd) -> std::result::Result<(), Failure> {
    let failed = || Failure::of(Step::ChangeRoot, "");
    // The copy of the namespace ends when it is left, and with it the mounts in it.
    let clone = berth_kernel::clone_tree(root, Path::new(""), true).map_err(failed())?;
    berth_kernel::join(shared, MOUNT).map_err(Failure::of(Step::JoinNamespace, "mnt"))?;
    berth_kernel::enter_root(&clone).map_err(failed())
}

/// The root of a container's first process, for others to enter. `ESRCH` or
/// `ENOENT` when that process has ended.
pub(crate) fn root_of(pid: i32, pidfd: BorrowedFd<'_>) -> berth_kernel::Result<OwnedFd> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = berth_kernel::rustix::fs::open(path, flags, Mode::empty())?;
    // If the process is still there, its number was its own.
    berth_kernel::pidfd_send_signal(pidfd, 0)?;
    Ok(root)
}
