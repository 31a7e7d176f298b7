//! `/sys/fs/cgroup` of a container: its own cgroups and nothing else.
//!
//! Each hierarchy is the container's own directory, bound. Inside a cgroup
//! namespace that is made after joining, the kernel shows it as the root of
//! the hierarchy; without such a namespace it still hides everything above.

use crate::mounts::{MountPlan, attach};
use crate::report::Failure;
use crate::step::Step;
use berth_cgroups::HierarchyPath;
use berth_kernel::rustix::fs::{CWD, Mode, OFlags};
use berth_kernel::{AttributeChange, Errno, FilesystemContext, MountFlags, Propagation};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// The unified tree of a v2 host, which is the whole mount.
pub(crate) fn single(paths: &[HierarchyPath]) -> Result<OwnedFd, Failure> {
    let unified = paths
        .iter()
        .find(|path| path.unified)
        .ok_or_else(|| Failure::of(Step::OpenMountSource, "cgroup")(Errno::NOENT))?;
    clone_private(&unified.directory)
}

/// A small tmpfs at `place` with a directory for each hierarchy of `mounts`. Read-only in the
/// end if the mount is asked for read-only: the directories and the tmpfs.
pub(crate) fn tree(
    root: BorrowedFd<'_>,
    place: &OwnedFd,
    plan: &MountPlan,
    paths: &[HierarchyPath],
    mounts: &[OwnedFd],
) -> Result<(), Failure> {
    let destination = &plan.destination;
    let failed = || Failure::at(Step::MakeFilesystem, destination);
    let context = FilesystemContext::open("tmpfs").map_err(failed())?;
    context.set("mode", "0755").map_err(failed())?;
    context.set("size", "64k").map_err(failed())?;
    let read_only = MountFlags::MOUNT_ATTR_RDONLY;
    let tmpfs = context
        .mount(plan.options.set.difference(read_only))
        .map_err(failed())?;
    for path in paths {
        make_directory(&tmpfs, &path.name).map_err(Failure::at(
            Step::MakeMountPoint,
            &destination.join(&path.name),
        ))?;
    }
    attach(&tmpfs, place, destination)?;
    for (path, mount) in paths.iter().zip(mounts) {
        let target = destination.join(&path.name);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let place = berth_kernel::open_without_links(root, &target, flags)
            .map_err(Failure::at(Step::MountOrdinaryDirectory, &target))?;
        attach(mount, &place, &target)?;
    }
    if plan.options.set.contains(read_only) {
        let change = AttributeChange {
            set: read_only,
            ..AttributeChange::default()
        };
        berth_kernel::set_attributes(&tmpfs, &change, None, false)
            .map_err(Failure::at(Step::SetMountFlags, destination))?;
    }
    Ok(())
}

/// The container's directory of each hierarchy.
pub(crate) fn hierarchies(
    plan: &MountPlan,
    paths: &[HierarchyPath],
) -> Result<Vec<OwnedFd>, Failure> {
    paths.iter().map(|path| hierarchy(plan, path)).collect()
}

fn hierarchy(plan: &MountPlan, path: &HierarchyPath) -> Result<OwnedFd, Failure> {
    let mount = clone_private(&path.directory)?;
    if let Some(change) = plan.options.change() {
        berth_kernel::set_attributes(&mount, &change, None, false)
            .map_err(Failure::at(Step::SetMountFlags, &path.directory))?;
    }
    Ok(mount)
}

fn clone_private(directory: &Path) -> Result<OwnedFd, Failure> {
    let failed = || Failure::at(Step::OpenMountSource, directory);
    let mount = berth_kernel::clone_tree(CWD, directory, false).map_err(failed())?;
    let change = AttributeChange {
        propagation: Some(Propagation::Private),
        ..AttributeChange::default()
    };
    berth_kernel::set_attributes(&mount, &change, None, false).map_err(failed())?;
    Ok(mount)
}

/// A directory, and for `cpu,cpuacct` a link for each of its names.
fn make_directory(tmpfs: &OwnedFd, name: &str) -> berth_kernel::Result<()> {
    berth_kernel::rustix::fs::mkdirat(tmpfs, name, Mode::from_raw_mode(0o755))?;
    if name.contains(',') {
        for alias in name.split(',') {
            berth_kernel::rustix::fs::symlinkat(name, tmpfs, alias)?;
        }
    }
    Ok(())
}
