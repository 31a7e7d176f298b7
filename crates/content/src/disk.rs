//! The few operations whose failure matters for durability, each with its error context.
//!
//! In tests every call first asks the fault plan of its thread, so that each of them can be made
//! to fail in turn.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{Advice, FallocateFlags};

use crate::{Error, Result};

pub(crate) fn write(file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
    step("write")
        .and_then(|()| file.write_all(bytes))
        .map_err(|e| Error::io("write", path, e))
}

/// Reserves space from `offset` to `size`, so that a full disk is found before the transfer.
/// The file's length stays as it is: it says how much data there is. Filesystems that cannot do
/// this are left alone.
pub(crate) fn reserve(file: &File, path: &Path, offset: u64, size: u64) -> Result<()> {
    if size <= offset {
        return Ok(());
    }
    let reserved = step("reserve").and_then(|()| {
        rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, size - offset)
            .map_err(io::Error::from)
    });
    match reserved {
        Err(e) if e.kind() != io::ErrorKind::Unsupported => {
            Err(Error::io("reserve space for", path, e))
        }
        _ => Ok(()),
    }
}

/// Starts writing a range back without waiting for it. `DONTNEED` makes the kernel begin
/// asynchronous writeback of dirty pages (mm/fadvise.c), so that the sync at commit finds little
/// left; pages still dirty or in flight stay cached for whoever unpacks the blob.
pub(crate) fn start_writeback(file: &File, offset: u64, length: u64) {
    // Advice only: a refusal costs time, not correctness.
    let _ = rustix::fs::fadvise(
        file.as_fd(),
        offset,
        std::num::NonZeroU64::new(length),
        Advice::DontNeed,
    );
}

/// Lets the page cache drop what was read of a file.
pub(crate) fn forget(file: &File) {
    // Advice only.
    let _ = rustix::fs::fadvise(file.as_fd(), 0, None, Advice::DontNeed);
}

pub(crate) fn sync(file: &File, path: &Path) -> Result<()> {
    step("sync")
        .and_then(|()| file.sync_data())
        .map_err(|e| Error::io("sync", path, e))
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    step("rename")
        .and_then(|()| fs::rename(from, to))
        .map_err(|e| Error::io("rename", from, e))
}

pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    step("sync_dir")
        .and_then(|()| File::open(path)?.sync_all())
        .map_err(|e| Error::io("sync directory", path, e))
}

/// Removes a file; `false` if there was none.
pub(crate) fn unlink(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("remove", path, e)),
    }
}

#[cfg(not(test))]
fn step(_name: &'static str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use crate::fault_test::step;
