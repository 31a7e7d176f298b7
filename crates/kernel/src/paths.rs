//! Opening paths that somebody else controls.

use crate::{Errno, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// `openat2` asks for another try when a rename raced with the walk over a
/// `..`; this many are made before `EAGAIN` is passed on.
const ATTEMPTS: usize = 64;

/// Opens `path` as if `root` were `/`: absolute links and `..` stay inside,
/// and links of the proc file system lead nowhere (`ELOOP`). The descriptor
/// is close-on-exec.
pub fn open_in_root<Fd: AsFd>(root: Fd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    open(root, path, flags, mode, resolve)
}

/// Opens `path` below `root`; a path or link that leads out is refused with
/// `EXDEV`, and so are links of the proc file system (`ELOOP`).
pub fn open_beneath<Fd: AsFd>(root: Fd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    open(root, path, flags, mode, resolve)
}

/// As [`open_in_root`], for paths that must be what they seem: any symbolic
/// link on the way or at the end is refused (`ELOOP`).
pub fn open_without_links<Fd: AsFd>(root: Fd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    open(root, path, flags, Mode::empty(), resolve)
}

fn open<Fd: AsFd>(
    root: Fd,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(&root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens the file behind an `O_PATH` descriptor with other flags, through
/// the caller's `/proc/self/fd`: nothing is resolved again.
pub fn reopen<Fd: AsFd>(file: Fd, flags: OFlags) -> Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    rustix::fs::open(link, flags | OFlags::CLOEXEC, Mode::empty())
}
