//! The operations whose failure decides what is durable, in one place.
//!
//! In tests each of them can be made to fail in turn: see [`Disk::failing_at`].

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
#[cfg(test)]
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    /// Operations until one fails; none fails below zero. Absent: the disk is sound.
    #[cfg(test)]
    countdown: Option<Arc<AtomicI64>>,
}

impl Disk {
    /// A disk whose operation number `n`, from 0, fails with an I/O error, once. The counter goes
    /// on below zero.
    #[cfg(test)]
    pub(crate) fn failing_at(n: i64) -> (Self, Arc<AtomicI64>) {
        let countdown = Arc::new(AtomicI64::new(n));
        let disk = Self {
            countdown: Some(Arc::clone(&countdown)),
        };
        (disk, countdown)
    }

    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        match &self.countdown {
            Some(left) if left.fetch_sub(1, Ordering::SeqCst) == 0 => {
                Err(io::Error::from_raw_os_error(5))
            }
            _ => Ok(()),
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the disk of the tests counts")]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.step()?;
        file.write_all_at(bytes, offset)
    }

    pub(crate) fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        file.write_all(bytes)
    }

    pub(crate) fn sync(&self, file: &File) -> io::Result<()> {
        self.step()?;
        file.sync_data()
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        fs::rename(from, to)
    }

    /// Makes the names in a directory durable.
    pub(crate) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step()?;
        File::open(dir)?.sync_all()
    }
}
