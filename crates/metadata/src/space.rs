//! What is done when the disk fills up.
//!
//! The engine does not survive a failed write, so it must not see one: additions are refused while
//! there is still room, and removals, which also write a little, get a reserve.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

/// Below this many free bytes nothing is added.
const ADD_FLOOR: u64 = 16 << 20;
/// Below this many free bytes the reserve is given back, so that removals find room.
const REMOVE_FLOOR: u64 = 4 << 20;
const RESERVE: u64 = 8 << 20;
/// Above this many free bytes the reserve is made again.
const RESTORE_ABOVE: u64 = 64 << 20;

pub(crate) struct Space {
    dir: PathBuf,
    reserve: PathBuf,
}

impl Space {
    pub(crate) fn new(dir: &Path) -> Self {
        let space = Self {
            dir: dir.to_owned(),
            reserve: dir.join("reserve"),
        };
        space.restore();
        space
    }

    /// Checks that there is room for `bytes` more.
    pub(crate) fn check_addition(&self, bytes: u64) -> Result<(), Error> {
        let needed = ADD_FLOOR + 2 * bytes;
        match self.free() {
            Some(free) if free < needed => Err(Error::NoSpace {
                dir: self.dir.clone(),
                free,
                needed,
            }),
            _ => Ok(()),
        }
    }

    /// Makes room for a removal, or makes the reserve again when there is room.
    pub(crate) fn before_write(&self) {
        match self.free() {
            Some(free) if free < REMOVE_FLOOR => match fs::remove_file(&self.reserve) {
                Ok(()) => tracing::warn!(dir = %self.dir.display(), free,
                    "the disk is full: the metadata reserve was given back for removals"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, "cannot give back the metadata reserve"),
            },
            Some(free) if free > RESTORE_ABOVE && !self.reserve.exists() => self.restore(),
            _ => {}
        }
    }

    /// Bytes that root may still write; `None` if the filesystem does not say.
    fn free(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.dir).ok()?;
        (stat.f_blocks > 0).then(|| stat.f_bfree.saturating_mul(stat.f_frsize))
    }

    /// Failing costs the reserve, not the store.
    fn restore(&self) {
        if self.free().is_none_or(|free| free <= RESTORE_ABOVE) {
            return;
        }
        let made = File::create(&self.reserve).and_then(|file| {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE)
                .map_err(io::Error::from)
        });
        if let Err(error) = made {
            tracing::debug!(%error, "the metadata store runs without a reserve of space");
        }
    }
}
