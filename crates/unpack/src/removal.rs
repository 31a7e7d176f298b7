//! Removing what is in the way, in a tree whose owner may change it meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use crate::tree::{is_mounted_on, open_directory};

/// Levels, each of which holds a descriptor.
const DEPTH: usize = 1024;

struct Level {
    dir: OwnedFd,
    name: Vec<u8>,
    directories: Vec<Vec<u8>>,
}

/// Removes `name` in `parent`, and everything in it if it is a directory. No link is followed and
/// no path is resolved. What is gone already is no failure; something that is mounted there is
/// (`EBUSY`).
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    let Some(top) = enter(parent, name)? else {
        return Ok(());
    };
    let mut levels = vec![top];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.directories.pop() {
            let deeper = enter(level.dir.as_fd(), &name)?;
            if levels.len() == DEPTH {
                return Err(Errno::NAMETOOLONG);
            }
            levels.extend(deeper);
            continue;
        }
        let Some(done) = levels.pop() else { break };
        let above = levels.last().map_or(parent, |level| level.dir.as_fd());
        match rustix::fs::unlinkat(above, &done.name[..], AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Removes what is no directory. Of a directory it removes everything else, and opens it.
fn enter(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Level>> {
    if is_mounted_on(parent, name) {
        return Err(Errno::BUSY);
    }
    let dir = match open_directory(parent, name) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlink(parent, name).map(|()| None),
        Err(errno) => return Err(errno),
    };
    let mut directories = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        match (name, entry.file_type()) {
            (b"." | b"..", _) => {}
            (name, FileType::Directory | FileType::Unknown) => directories.push(name.to_vec()),
            (name, _) => unlink(dir.as_fd(), name)?,
        }
    }
    Ok(Some(Level {
        dir,
        name: name.to_vec(),
        directories,
    }))
}

fn unlink(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    if is_mounted_on(parent, name) {
        return Err(Errno::BUSY);
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
