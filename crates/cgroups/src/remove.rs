//! Removing cgroup trees, and walking them.

use crate::error::{Error, Result};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long busy directories are retried. A killed process leaves its cgroup
/// only when it has been torn down, which takes a moment.
const PATIENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// Removes each directory with everything below it. All are attempted, the
/// first failure is returned, and the patience is shared.
pub(crate) fn all<'a>(directories: impl Iterator<Item = &'a Path>) -> Result<()> {
    within(directories, PATIENCE)
}

fn within<'a>(directories: impl Iterator<Item = &'a Path>, patience: Duration) -> Result<()> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut left: Vec<&Path> = directories.collect();
    let mut failure = None;
    loop {
        let mut busy = Vec::new();
        for directory in left {
            match tree(directory) {
                Ok(()) => {}
                Err(Errno::BUSY) => busy.push(directory),
                Err(errno) => {
                    failure.get_or_insert(Error::Remove {
                        path: directory.to_owned(),
                        source: errno.into(),
                    });
                }
            }
        }
        left = busy;
        let waited = start.elapsed();
        match left.first() {
            None => return failure.map_or(Ok(()), Err),
            Some(path) if waited >= patience => {
                return Err(failure.unwrap_or(Error::Busy {
                    path: path.to_path_buf(),
                    waited,
                }));
            }
            Some(_) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Removes each directory that holds nothing; false if one does. A missing one
/// is gone.
pub(crate) fn empty<'a>(mut directories: impl Iterator<Item = &'a Path>) -> Result<bool> {
    directories.try_fold(true, |all, directory| match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => Ok(all),
        Err(Errno::BUSY | Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(Error::Remove {
            path: directory.to_owned(),
            source: errno.into(),
        }),
    })
}

/// Removes one tree, deepest first. A missing one is success.
fn tree(directory: &Path) -> std::result::Result<(), Errno> {
    match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // A cgroup with children is "busy" like one with processes.
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        Err(errno) => return Err(errno),
    }
    // One busy child does not keep its siblings.
    let mut busy = false;
    let walked = walk(
        directory,
        |_| Ok(()),
        |parent, name| match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::BUSY | Errno::NOTEMPTY) => {
                busy = true;
                Ok(())
            }
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        },
    );
    match walked {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    if busy {
        return Err(Errno::BUSY);
    }
    match rustix::fs::rmdir(directory) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY) => Err(Errno::BUSY),
        Err(errno) => Err(errno),
    }
}

/// Visits a directory tree: `enter` with each directory (the root too) before
/// its children, `leave` with parent and name of each (not the root) after
/// them. Directories that vanish on the way are passed over.
///
/// A container with a writable cgroup mount chooses depth and number of its
/// directories, so neither recursion nor one descriptor per level will do:
/// one descriptor moves down by name and up by `..`.
pub(crate) fn walk(
    root: &Path,
    mut enter: impl FnMut(BorrowedFd<'_>) -> std::result::Result<(), Errno>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CStr) -> std::result::Result<(), Errno>,
) -> std::result::Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut here: OwnedFd = rustix::fs::open(root, flags, Mode::empty())?;
    enter(here.as_fd())?;
    let mut to_visit = vec![subdirectories(here.as_fd())?];
    let mut names: Vec<CString> = Vec::new();
    while let Some(siblings) = to_visit.last_mut() {
        if let Some(name) = siblings.pop() {
            match rustix::fs::openat(&here, &name, flags, Mode::empty()) {
                Ok(child) => {
                    enter(child.as_fd())?;
                    to_visit.push(subdirectories(child.as_fd())?);
                    names.push(name);
                    here = child;
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            continue;
        }
        to_visit.pop();
        if let Some(name) = names.pop() {
            here = rustix::fs::openat(&here, c"..", flags, Mode::empty())?;
            leave(here.as_fd(), &name)?;
        }
    }
    Ok(())
}

fn subdirectories(directory: BorrowedFd<'_>) -> std::result::Result<Vec<CString>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::NOENT) => break,
            Err(errno) => return Err(errno),
        };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

/// [`walk`] for those who only look.
pub(crate) fn each_directory(
    root: &Path,
    enter: impl FnMut(BorrowedFd<'_>) -> std::result::Result<(), Errno>,
) -> io::Result<()> {
    Ok(walk(root, enter, |_, _| Ok(()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn trees_of_any_depth_are_removed_with_one_descriptor() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("c");
        fs::create_dir(&root).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut here = rustix::fs::open(&root, flags, Mode::empty()).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&here, c"d", Mode::from_raw_mode(0o755)).unwrap();
            rustix::fs::mkdirat(&here, c"e", Mode::from_raw_mode(0o755)).unwrap();
            here = rustix::fs::openat(&here, c"d", flags, Mode::empty()).unwrap();
        }
        let mut seen = 0;
        each_directory(&root, |_| {
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 10_001);
        all([root.as_path()].into_iter()).unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn removing_what_is_gone_succeeds() {
        let tmp = tempfile::tempdir().unwrap();
        let missing = tmp.path().join("never");
        all([missing.as_path(), missing.as_path()].into_iter()).unwrap();
    }

    #[test]
    fn a_busy_directory_is_named_after_the_patience_and_others_are_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let busy = tmp.path().join("busy");
        let free = tmp.path().join("free");
        fs::create_dir_all(busy.join("child")).unwrap();
        fs::create_dir_all(free.join("child")).unwrap();
        // A plain file keeps a directory of an ordinary file system.
        fs::write(busy.join("child/file"), "").unwrap();
        let patience = Duration::from_millis(20);
        let error = within([busy.as_path(), free.as_path()].into_iter(), patience).unwrap_err();
        assert!(
            matches!(&error, Error::Busy { path, waited } if *path == busy && *waited >= patience)
        );
        assert!(!free.exists());
    }
}
