//! The file that a blob arrives in, which one writer has at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use berth_names::Digest;

use crate::{Error, Result};

/// An open partial file and the lock on it (flock(2)).
///
/// Closing the file would not give the lock back at once: it belongs to the open file
/// description, which any child that was forked meanwhile shares until it executes its program.
pub(crate) struct Partial(File);

impl Partial {
    /// Makes the file if needed. The former holder may have renamed or removed it between open
    /// and lock, hence the look at what the path means now.
    pub(crate) fn lock(digest: &Digest, path: &Path) -> Result<Self> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(|e| Error::io("open", path, e))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(Error::Busy(digest.clone())),
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", path, e)),
            }
            let locked = Self(file);
            let inode = locked.metadata().map_err(|e| Error::io("stat", path, e))?;
            match fs::symlink_metadata(path) {
                Ok(named) if named.ino() == inode.ino() => return Ok(locked),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("stat", path, e)),
            }
        }
    }
}

impl Deref for Partial {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for Partial {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Only an invalid descriptor is refused, and then there is no lock.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a child has between fork and exec.
    #[test]
    fn a_lock_given_back_is_free_though_another_shares_the_description() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("partial");
        let digest = Digest::sha256_of(b"hello world");
        let first = Partial::lock(&digest, &path).unwrap();
        let shared = first.try_clone().unwrap();
        assert!(matches!(Partial::lock(&digest, &path), Err(Error::Busy(_))));
        drop(first);
        Partial::lock(&digest, &path).unwrap();
        drop(shared);
    }
}
