//! A place to unpack archives that were made byte by byte.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

pub use berth_testkit::archive::*;
use berth_unpack::{Applied, Options, Result, apply};

/// Empty directories to unpack into, beside a tree that must not change.
pub struct Place {
    pub dir: tempfile::TempDir,
    next: usize,
}

impl Place {
    /// `None` without the privileges that owners and devices take.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root: sets owners, makes devices and whiteouts");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        Some(Self { dir, next: 0 })
    }

    /// A new, empty target.
    pub fn target(&mut self) -> PathBuf {
        self.next += 1;
        let target = self.dir.path().join(format!("target-{}", self.next));
        fs::create_dir(&target).unwrap();
        target
    }

    /// Unpacks into a new target, and returns it with the outcome.
    pub fn unpack(&mut self, archive: &[u8], options: &Options) -> (PathBuf, Result<Applied>) {
        let target = self.target();
        let applied = unpack_to(&target, archive, options);
        (target, applied)
    }

    /// Unpacks what has to work.
    pub fn good(&mut self, archive: &[u8]) -> (PathBuf, Applied) {
        let (target, applied) = self.unpack(archive, &Options::default());
        (
            target,
            applied.unwrap_or_else(|error| panic!("{error}: {error:?}")),
        )
    }
}

pub fn unpack_to(target: &Path, archive: &[u8], options: &Options) -> Result<Applied> {
    let dir = fs::File::open(target).unwrap();
    apply(archive, dir.as_fd(), options)
}
