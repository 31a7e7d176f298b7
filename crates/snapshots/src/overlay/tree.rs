//! Deleting and measuring directory trees of any depth, with a bounded number of descriptors.
//!
//! A container can nest directories as deep as its disk allows, far beyond the longest path and
//! the number of files a process may open. Nothing here recurses, builds a path or follows a link.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::snapshotter::Usage;

/// Levels whose descriptors are held at the same time.
const HELD_LEVELS: usize = 64;

/// Size of the unit that `st_blocks` counts, on every filesystem.
const BLOCK: u64 = 512;

/// Names in a directory, without `.` and `..`.
pub(super) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !is_dots(entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Deletes everything in `trash` and returns the number of inodes removed. Goes on past
/// failures, and reports the first one at the end.
pub(super) fn purge(trash: BorrowedFd<'_>) -> io::Result<u64> {
    let mut total = 0;
    loop {
        let mut removed = 0;
        let mut failure = None;
        for name in names(trash)? {
            match delete(trash, &name, trash) {
                Ok(count) => removed += count,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        total += removed;
        match failure {
            Some(error) if removed == 0 => return Err(error),
            None if removed == 0 => return Ok(total),
            // Deep subtrees were moved up into the trash: another round.
            _ => {}
        }
    }
}

/// One level of the walk that deletes.
struct Level {
    dir: OwnedFd,
    name: CString,
    subdirs: Vec<CString>,
}

/// Deletes `name` in `parent`, whatever it is, and returns the number of inodes removed.
/// Subtrees deeper than [`HELD_LEVELS`] are renamed into `spill` (same filesystem) and left there
/// for [`purge`]. Succeeds if there is nothing of that name.
pub(super) fn delete<N: rustix::path::Arg>(
    parent: BorrowedFd<'_>,
    name: N,
    spill: BorrowedFd<'_>,
) -> io::Result<u64> {
    let name = name.into_c_str()?.into_owned();
    let mut removed = 0;
    let Some(level) = enter(parent, name, &mut removed)? else {
        return Ok(removed);
    };
    let mut levels = vec![level];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else {
            break;
        };
        match level.subdirs.pop() {
            Some(name) if depth >= HELD_LEVELS => move_up(level.dir.as_fd(), &name, spill)?,
            Some(name) => {
                if let Some(deeper) = enter(level.dir.as_fd(), name, &mut removed)? {
                    levels.push(deeper);
                }
            }
            None => {
                let Some(done) = levels.pop() else { break };
                let above = levels.last().map_or(parent, |level| level.dir.as_fd());
                remove(above, &done.name, AtFlags::REMOVEDIR, &mut removed)?;
            }
        }
    }
    Ok(removed)
}

/// Removes `name` if it is no directory; else opens it, removes its files and returns it.
fn enter(parent: BorrowedFd<'_>, name: CString, removed: &mut u64) -> io::Result<Option<Level>> {
    let dir = match open_dir(parent, &name) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            remove(parent, &name, AtFlags::empty(), removed)?;
            return Ok(None);
        }
        Err(errno) => return Err(errno.into()),
    };
    let mut subdirs = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        if is_dots(entry.file_name()) {
            continue;
        }
        match entry.file_type() {
            FileType::Directory | FileType::Unknown => subdirs.push(entry.file_name().to_owned()),
            _ => remove(dir.as_fd(), entry.file_name(), AtFlags::empty(), removed)?,
        }
    }
    Ok(Some(Level { dir, name, subdirs }))
}

fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn remove(
    parent: BorrowedFd<'_>,
    name: &CStr,
    flags: AtFlags,
    removed: &mut u64,
) -> io::Result<()> {
    let result = match rustix::fs::unlinkat(parent, name, flags) {
        Err(Errno::PERM) => {
            allow_change(parent, name);
            rustix::fs::unlinkat(parent, name, flags)
        }
        result => result,
    };
    match result {
        Ok(()) => *removed += 1,
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(())
}

/// Clears the immutable and append-only flags that a privileged container may have left.
fn allow_change(parent: BorrowedFd<'_>, name: &CStr) {
    let kept = IFlags::IMMUTABLE | IFlags::APPEND;
    let clear = |fd: BorrowedFd<'_>| {
        let flags = rustix::fs::ioctl_getflags(fd)?;
        rustix::fs::ioctl_setflags(fd, flags.difference(kept))
    };
    // What cannot be cleared shows in the second attempt to unlink.
    let _ = clear(parent);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let regular = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| {
        matches!(
            FileType::from_raw_mode(s.st_mode),
            FileType::RegularFile | FileType::Directory
        )
    });
    if regular && let Ok(file) = rustix::fs::openat(parent, name, flags, Mode::empty()) {
        let _ = clear(file.as_fd());
    }
}

/// Renames a deep directory to a free name in `spill`.
fn move_up(parent: BorrowedFd<'_>, name: &CStr, spill: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    // The inode is in use as long as this entry exists, so the name is free or stale.
    let new = format!("deep-{}", stat.st_ino);
    match rustix::fs::renameat(parent, name, spill, new) {
        Err(Errno::PERM) => {
            allow_change(parent, name);
            Ok(rustix::fs::renameat(
                parent,
                name,
                spill,
                format!("deep-{}", stat.st_ino),
            )?)
        }
        renamed => Ok(renamed?),
    }
}

/// One level of the walk that measures. Deep levels give up their descriptor while the walk is
/// beneath them and are reached again through `..`.
struct Measured {
    dir: Option<OwnedFd>,
    identity: (u64, u64),
    subdirs: Vec<CString>,
}

/// Counts the blocks and inodes of a tree, `dir` itself included. The tree may be in use: what
/// moves away during the walk is not counted.
pub(super) fn measure(dir: OwnedFd) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let top = rustix::fs::fstat(&dir)?;
    count(&top, &mut usage, &mut linked);
    let mut levels = vec![survey(dir, &mut usage, &mut linked)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.subdirs.pop() {
            let Some(dir) = &level.dir else {
                levels.pop();
                continue;
            };
            match open_dir(dir.as_fd(), &name) {
                Ok(deeper) => {
                    let deeper = survey(deeper, &mut usage, &mut linked)?;
                    if levels.len() > HELD_LEVELS
                        && let Some(level) = levels.last_mut()
                    {
                        level.dir = None;
                    }
                    levels.push(deeper);
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(errno.into()),
            }
        } else if let (Some(done), Some(above)) = (levels.pop(), levels.last_mut())
            && above.dir.is_none()
            && let Some(dir) = done.dir
        {
            above.dir = climb(dir.as_fd(), above.identity);
        }
    }
    Ok(usage)
}

/// Counts a directory without what is in it.
pub(super) fn alone(dir: &OwnedFd) -> io::Result<Usage> {
    let mut usage = Usage::default();
    count(&rustix::fs::fstat(dir)?, &mut usage, &mut HashSet::new());
    Ok(usage)
}

/// Reads a directory, counts its entries and remembers its subdirectories.
fn survey(
    dir: OwnedFd,
    usage: &mut Usage,
    linked: &mut HashSet<(u64, u64)>,
) -> io::Result<Measured> {
    let stat = rustix::fs::fstat(&dir)?;
    let mut subdirs = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        if is_dots(entry.file_name()) {
            continue;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = match rustix::fs::statat(&dir, entry.file_name(), flags) {
            Err(Errno::NOENT) => continue,
            stat => stat?,
        };
        count(&stat, usage, linked);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            subdirs.push(entry.file_name().to_owned());
        }
    }
    Ok(Measured {
        dir: Some(dir),
        identity: (stat.st_dev, stat.st_ino),
        subdirs,
    })
}

fn count(stat: &rustix::fs::Stat, usage: &mut Usage, linked: &mut HashSet<(u64, u64)>) {
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if directory || stat.st_nlink == 1 || linked.insert((stat.st_dev, stat.st_ino)) {
        usage.bytes += stat.st_blocks as u64 * BLOCK;
        usage.inodes += 1;
    }
}

/// Opens the parent, if it still is the directory that the walk came from.
fn climb(dir: BorrowedFd<'_>, expected: (u64, u64)) -> Option<OwnedFd> {
    let above = open_dir(dir, c"..").ok()?;
    let stat = rustix::fs::fstat(&above).ok()?;
    ((stat.st_dev, stat.st_ino) == expected).then_some(above)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
