//! What is done when the disk fills up.
//!
//! The engine does not survive a failed write, so it must not see one: additions are refused while
//! there is still room, and removals, which also write a little, get a reserve.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

/// Below this nothing is written at all: the engine takes room in steps of 512 KiB, and others may
/// have taken what the reserve gave back.
const LAST: u64 = 1 << 20;

/// Where what begins, in free bytes. A small disk has less to spare.
#[derive(Debug, Clone, Copy)]
struct Floors {
    /// Below it nothing is added.
    add: u64,
    /// Below it the reserve is given back, so that removals find room.
    remove: u64,
    /// How large the reserve is.
    reserve: u64,
    /// Above it the reserve is made again.
    restore: u64,
}

impl Floors {
    fn of(total: u64) -> Self {
        Self {
            add: (total / 8).min(16 << 20),
            remove: (total / 32).min(4 << 20),
            reserve: (total / 16).min(8 << 20),
            restore: (total / 4).min(64 << 20),
        }
    }
}

pub(crate) struct Space {
    dir: PathBuf,
    reserve: PathBuf,
    floors: Floors,
}

impl Space {
    pub(crate) fn new(dir: &Path) -> Self {
        let total = rustix::fs::statvfs(dir)
            .map(|stat| stat.f_blocks.saturating_mul(stat.f_frsize))
            .unwrap_or(u64::MAX);
        let space = Self {
            dir: dir.to_owned(),
            reserve: dir.join("reserve"),
            floors: Floors::of(total),
        };
        space.restore();
        space
    }

    /// Checks that there is room for `bytes` more.
    pub(crate) fn check_addition(&self, bytes: u64) -> Result<(), Error> {
        let needed = self.floors.add + 2 * bytes;
        match self.free() {
            Some(free) if free < needed => Err(self.no_space(free, needed)),
            _ => Ok(()),
        }
    }

    /// Makes room for a removal, or makes the reserve again when there is room. Refuses where there
    /// is none even so.
    pub(crate) fn before_write(&self) -> Result<(), Error> {
        let free = self.free();
        if free.is_some_and(|free| free < self.floors.remove) {
            self.give_back();
        } else if free.is_some_and(|free| free > self.floors.restore) && !self.reserve.exists() {
            self.restore();
        }
        match self.free() {
            Some(free) if free < LAST => Err(self.no_space(free, LAST)),
            _ => Ok(()),
        }
    }

    fn give_back(&self) {
        match fs::remove_file(&self.reserve) {
            Ok(()) => tracing::warn!(dir = %self.dir.display(),
                "the disk is full: the metadata reserve was given back for removals"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "cannot give back the metadata reserve"),
        }
    }

    fn no_space(&self, free: u64, needed: u64) -> Error {
        Error::NoSpace {
            dir: self.dir.clone(),
            free,
            needed,
        }
    }

    /// Bytes that root may still write; `None` if the filesystem does not say.
    fn free(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.dir).ok()?;
        (stat.f_blocks > 0).then(|| stat.f_bfree.saturating_mul(stat.f_frsize))
    }

    /// Failing costs the reserve, not the store.
    fn restore(&self) {
        if self.free().is_none_or(|free| free <= self.floors.restore) {
            return;
        }
        let made = File::create(&self.reserve).and_then(|file| {
            rustix::fs::fallocate(
                &file,
                rustix::fs::FallocateFlags::empty(),
                0,
                self.floors.reserve,
            )
            .map_err(io::Error::from)
        });
        if let Err(error) = made {
            tracing::debug!(%error, "the metadata store runs without a reserve of space");
        }
    }
}
