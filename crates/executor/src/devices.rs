//! Device nodes and the links of `/dev`.

use crate::places;
use crate::report::Failure;
use crate::step::Step;
use crate::user_namespace::UserNamespace;
use berth_kernel::rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, fstat, statat,
};
use berth_kernel::{Errno, FilesystemContext, MountFlags, NodeKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A device to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DevicePlan {
    pub(crate) path: PathBuf,
    pub(crate) kind: NodeKind,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The devices that every container has (OCI runtime specification,
/// "Default Devices"); the terminal's `/dev/console` and `/dev/ptmx` are
/// made elsewhere.
pub(crate) fn defaults() -> Vec<DevicePlan> {
    [
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/full", 1, 7),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
        ("/dev/tty", 5, 0),
    ]
    .into_iter()
    .map(|(path, major, minor)| DevicePlan {
        path: PathBuf::from(path),
        kind: NodeKind::Character { major, minor },
        mode: 0o666,
        uid: 0,
        gid: 0,
    })
    .collect()
}

/// Makes devices with the host's rights, on a file system that only the
/// calling process's mount namespace sees for a moment: nobody makes a device
/// in a user namespace. Their owners are the container's.
pub(crate) fn make_as_host(
    plans: &[DevicePlan],
    user: &UserNamespace,
    scratch: &Path,
) -> Result<Vec<OwnedFd>, Failure> {
    let failed = || Failure::at(Step::MakeDevice, scratch);
    let context = FilesystemContext::open("tmpfs").map_err(failed())?;
    context.set("mode", "0755").map_err(failed())?;
    let shelf = context.mount(MountFlags::empty()).map_err(failed())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = berth_kernel::rustix::fs::open(scratch, flags, Mode::empty()).map_err(failed())?;
    // Only what is attached can be cloned before Linux 6.15.
    berth_kernel::attach(&shelf, &place).map_err(failed())?;
    let made = plans
        .iter()
        .enumerate()
        .map(|(number, plan)| {
            let failed = || Failure::at(Step::MakeDevice, &plan.path);
            let name = number.to_string();
            make_for(&shelf, Path::new(&name), plan, user).map_err(failed())
        })
        .collect();
    berth_kernel::detach(scratch).map_err(failed())?;
    made
}

fn make_for(
    shelf: &OwnedFd,
    name: &Path,
    plan: &DevicePlan,
    user: &UserNamespace,
) -> berth_kernel::Result<OwnedFd> {
    match berth_kernel::make_node(shelf, name, plan.kind, plan.mode) {
        Ok(()) => {}
        Err(Errno::PERM) => return host_device(plan),
        Err(errno) => return Err(errno),
    }
    let uid = user.outer_uid(plan.uid).ok_or(Errno::OVERFLOW)?;
    let gid = user.outer_gid(plan.gid).ok_or(Errno::OVERFLOW)?;
    own(shelf, name, plan, (uid, gid))?;
    berth_kernel::clone_tree(shelf, name, false)
}

/// Puts a device that was made before into its place; one of the same kind
/// that is there stays.
pub(crate) fn place(
    root: BorrowedFd<'_>,
    plan: &DevicePlan,
    device: &OwnedFd,
) -> Result<(), Failure> {
    let failed = || Failure::at(Step::MakeDevice, &plan.path);
    let (directory, name) = places::parent(root, &plan.path).map_err(failed())?;
    let name = Path::new(name);
    match attach(&directory, name, device) {
        Err(Errno::EXIST) if is_device(&directory, name, plan.kind).map_err(failed())? => Ok(()),
        done => done.map_err(failed()),
    }
}

/// Makes a device; binds the host's when making one is not permitted.
pub(crate) fn make(root: BorrowedFd<'_>, plan: &DevicePlan) -> Result<(), Failure> {
    let failed = || Failure::at(Step::MakeDevice, &plan.path);
    let (directory, name) = places::parent(root, &plan.path).map_err(failed())?;
    let name = Path::new(name);
    match berth_kernel::make_node(&directory, name, plan.kind, plan.mode) {
        Ok(()) => {}
        // Also a symbolic link is something else: nothing is followed here.
        Err(Errno::EXIST) if is_device(&directory, name, plan.kind).map_err(failed())? => {
            return Ok(());
        }
        Err(Errno::PERM) => return bind(&directory, name, plan).map_err(failed()),
        Err(errno) => return Err(failed()(errno)),
    }
    // The child's umask is 0, so the mode is as asked; owners are set here.
    if plan.uid != 0 || plan.gid != 0 {
        own(&directory, name, plan, (plan.uid, plan.gid)).map_err(failed())?;
    }
    Ok(())
}

/// Gives the node that was just made to its owner. The image may be changed
/// meanwhile: what is there now must still be that device, and nothing after
/// that goes by its name, which a link to a file of the host may have taken.
fn own(
    directory: &OwnedFd,
    name: &Path,
    plan: &DevicePlan,
    (uid, gid): (u32, u32),
) -> berth_kernel::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = berth_kernel::rustix::fs::openat(directory, name, flags, Mode::empty())?;
    if !matches(&fstat(&node)?, plan.kind) {
        // As if it had been there before.
        return Err(Errno::EXIST);
    }
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    chownat(&node, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    // A change of owner may clear bits of the mode.
    let mode = Mode::from_raw_mode(plan.mode);
    if Mode::from_raw_mode(fstat(&node)?.st_mode) == mode {
        return Ok(());
    }
    // The one way to the mode of such a descriptor before Linux 6.6; it ends
    // at the node itself, which is no link.
    let link = format!("/proc/self/fd/{}", node.as_raw_fd());
    chmodat(CWD, link, mode, AtFlags::empty())
}

fn is_device(directory: &OwnedFd, name: &Path, kind: NodeKind) -> berth_kernel::Result<bool> {
    let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(matches(&found, kind))
}

fn matches(found: &berth_kernel::rustix::fs::Stat, kind: NodeKind) -> bool {
    let file_type = FileType::from_raw_mode(found.st_mode);
    let device = |major, minor| found.st_rdev == berth_kernel::rustix::fs::makedev(major, minor);
    match kind {
        NodeKind::Character { major, minor } => {
            file_type == FileType::CharacterDevice && device(major, minor)
        }
        NodeKind::Block { major, minor } => {
            file_type == FileType::BlockDevice && device(major, minor)
        }
        NodeKind::Fifo => file_type == FileType::Fifo,
    }
}

fn bind(directory: &OwnedFd, name: &Path, plan: &DevicePlan) -> berth_kernel::Result<()> {
    attach(directory, name, &host_device(plan)?)
}

fn host_device(plan: &DevicePlan) -> berth_kernel::Result<OwnedFd> {
    let source = berth_kernel::clone_tree(CWD, &plan.path, false)?;
    let found = fstat(&source)?;
    if matches(&found, plan.kind) {
        Ok(source)
    } else {
        Err(Errno::NXIO)
    }
}

fn attach(directory: &OwnedFd, name: &Path, device: &OwnedFd) -> berth_kernel::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    berth_kernel::rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = berth_kernel::rustix::fs::openat(directory, name, flags, Mode::empty())?;
    berth_kernel::attach(device, &place)
}

/// Makes the links of `/dev`; names that exist stay as they are.
pub(crate) fn link(root: BorrowedFd<'_>) -> Result<(), Failure> {
    const LINKS: [(&str, &str); 5] = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    let dev = places::find_or_make(root, Path::new("/dev"), places::PlaceKind::Directory)
        .map_err(Failure::at(Step::LinkDevice, Path::new("/dev")))?;
    for (name, target) in LINKS {
        match berth_kernel::rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Failure::of(Step::LinkDevice, name)(errno)),
        }
    }
    Ok(())
}

/// Opens the container's `/dev/null` for reading and writing, once it is
/// certain that it is that device.
pub(crate) fn open_null(root: BorrowedFd<'_>) -> berth_kernel::Result<OwnedFd> {
    let place = places::find(root, Path::new("/dev/null"))?;
    let found = fstat(place.as_fd())?;
    if !matches(&found, NodeKind::Character { major: 1, minor: 3 }) {
        return Err(Errno::NXIO);
    }
    // Opened by name again, because the caller's own procfs may not be there
    // to reopen the descriptor; what was opened is looked at, not the name.
    let null = berth_kernel::open_in_root(
        root,
        Path::new("/dev/null"),
        OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK,
        Mode::empty(),
    )?;
    let opened = fstat(&null)?;
    if opened.st_rdev != found.st_rdev {
        return Err(Errno::NXIO);
    }
    Ok(null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

    /// A node that needs no rights, for an owner that anybody may give to.
    fn plan(directory: &Path) -> DevicePlan {
        let owner = fs::metadata(directory).unwrap();
        DevicePlan {
            path: PathBuf::from("/dev/pipe"),
            kind: NodeKind::Fifo,
            mode: 0o622,
            uid: owner.uid(),
            gid: owner.gid(),
        }
    }

    fn owned(directory: &Path) -> berth_kernel::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = berth_kernel::rustix::fs::open(directory, flags, Mode::empty())?;
        let plan = plan(directory);
        own(&fd, Path::new("pipe"), &plan, (plan.uid, plan.gid))
    }

    #[test]
    fn a_node_has_its_mode_whatever_it_was_made_with() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("pipe");
        berth_kernel::make_fifo(&node, 0o600).unwrap();
        owned(dir.path()).unwrap();
        let made = fs::metadata(&node).unwrap();
        assert!(made.file_type().is_fifo());
        assert_eq!(made.mode() & 0o7777, 0o622);
    }

    #[test]
    fn what_took_the_place_of_a_node_keeps_owner_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("pipe");
        let elsewhere = tempfile::tempdir().unwrap();
        let victim = elsewhere.path().join("victim");
        fs::write(&victim, "").unwrap();
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).unwrap();
        let look = |path: &Path| {
            let found = fs::symlink_metadata(path).unwrap();
            // Any change of it, also to the same, changes the last.
            let changed = (found.ctime(), found.ctime_nsec());
            (found.mode(), found.uid(), found.gid(), changed)
        };
        let before = look(&victim);

        symlink(&victim, &node).unwrap();
        let link = look(&node);
        assert_eq!(owned(dir.path()), Err(Errno::EXIST));
        assert_eq!((look(&victim), look(&node)), (before, link));

        fs::rename(&victim, &node).unwrap();
        let before = look(&node);
        assert_eq!(owned(dir.path()), Err(Errno::EXIST));
        assert_eq!(look(&node), before);

        fs::remove_file(&node).unwrap();
        assert_eq!(owned(dir.path()), Err(Errno::NOENT));
    }
}
