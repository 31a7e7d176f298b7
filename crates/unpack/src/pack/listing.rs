//! Names of directories on the way down, in order and bounded.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags};

use super::archive::failed;
use crate::entry::shown;
use crate::error::{Error, Result};

/// Bytes of the names that wait on all levels together.
const NAME_BYTES: usize = 256 << 20;
/// Levels: each holds a descriptor. Unpacking takes no more either.
const DEPTH: usize = 1024;

/// What bounds a walk.
#[derive(Default)]
pub(crate) struct Bounds {
    names: usize,
}

/// The names of one directory that were not visited yet, the next one last.
pub(crate) struct Names {
    left: Vec<Vec<u8>>,
    bytes: usize,
}

impl Bounds {
    /// Lists a directory that lies `depth` levels deep, sorted by bytes.
    pub fn list(&mut self, dir: impl AsFd, path: &[u8], depth: usize) -> Result<Names> {
        let limit = |what, max: usize| Error::Limit {
            entry: shown(path),
            what,
            max: max as u64,
        };
        if depth > DEPTH {
            return Err(limit("directories inside each other", DEPTH));
        }
        let mut names = Names {
            left: Vec::new(),
            bytes: 0,
        };
        for entry in Dir::read_from(dir).map_err(|errno| failed(path, errno))? {
            let entry = entry.map_err(|errno| failed(path, errno))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            names.bytes += name.len();
            if self.names + names.bytes > NAME_BYTES {
                return Err(limit("bytes of names", NAME_BYTES));
            }
            names.left.push(name.to_vec());
        }
        self.names += names.bytes;
        names.left.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// Forgets a directory whose names were all visited.
    pub fn leave(&mut self, names: &Names) {
        self.names -= names.bytes;
    }
}

impl Names {
    pub fn next(&mut self) -> Option<Vec<u8>> {
        self.left.pop()
    }

    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub fn contains(&self, name: &[u8]) -> bool {
        let found = self.left.binary_search_by(|known| name.cmp(&known[..]));
        found.is_ok()
    }
}

/// Opens the directory that `handle` stands for, to be listed.
pub(crate) fn enter(handle: &OwnedFd, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(handle, c".", flags, Mode::empty()).map_err(|errno| failed(path, errno))
}
