use std::io::Read as _;
use std::path::PathBuf;

use berth_names::Digest;
use tracing::warn;

use crate::partial::Partial;
use crate::{Error, Hasher, Result, disk};

/// Dirty data is handed to the disk in steps of this many bytes.
const WRITEBACK_STEP: u64 = 8 << 20;
const READ_BUFFER: usize = 256 << 10;

/// A blob on its way in. Data goes to a partial file that the next [`crate::Store::ingest`] of the
/// same digest resumes; dropping an `Ingest` keeps that file, [`Ingest::abort`] removes it.
///
/// The value holds an exclusive lock on the partial file for its lifetime.
pub struct Ingest {
    digest: Digest,
    expected: Option<u64>,
    file: Partial,
    partial: PathBuf,
    blob: PathBuf,
    hasher: Hasher,
    offset: u64,
    written_back: u64,
    resumed: bool,
    /// Set once an operation failed in a way that leaves the file's contents unknown.
    poisoned: bool,
    /// The path is no longer this file's.
    settled: bool,
}

impl Ingest {
    /// Takes over a locked partial file: what is there already is hashed.
    pub(crate) fn resume(
        digest: Digest,
        expected: Option<u64>,
        file: Partial,
        partial: PathBuf,
        blob: PathBuf,
    ) -> Result<Self> {
        let hasher = Hasher::new(digest.algorithm());
        let mut ingest = Self {
            digest,
            expected,
            file,
            partial,
            blob,
            hasher,
            offset: 0,
            written_back: 0,
            resumed: false,
            poisoned: false,
            settled: false,
        };
        ingest.hash_present()?;
        if let Some(size) = expected {
            if ingest.offset > size {
                warn!(digest = %ingest.digest, "partial file is longer than the blob: starting over");
                ingest.restart()?;
            }
            disk::reserve(&ingest.file, &ingest.partial, ingest.offset, size)?;
            berth_faults::passing("blob.ingest.after-reserve");
        }
        Ok(ingest)
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes present: where the next [`Ingest::write`] goes, and where a transfer is to resume.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn expected_size(&self) -> Option<u64> {
        self.expected
    }

    /// Appends data. After an error only [`Ingest::abort`] or dropping makes sense.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.offset + bytes.len() as u64;
        if let Some(expected) = self.expected
            && end > expected
        {
            self.poisoned = true;
            return Err(Error::TooLong {
                digest: self.digest.clone(),
                expected,
            });
        }
        // A failed write may have left a part of the data behind: the length no longer says what
        // was hashed. The file is cut back to where both agree.
        if let Err(error) = disk::write(&mut self.file, &self.partial, bytes) {
            self.poisoned = self.file.set_len(self.offset).is_err();
            return Err(error);
        }
        self.hasher.update(bytes);
        self.offset = end;
        if self.offset - self.written_back >= WRITEBACK_STEP {
            disk::start_writeback(
                &self.file,
                self.written_back,
                self.offset - self.written_back,
            );
            self.written_back = self.offset;
        }
        berth_faults::passing("blob.write.after-piece");
        Ok(())
    }

    /// Discards what is present and starts at offset 0 again.
    pub fn restart(&mut self) -> Result<()> {
        use std::io::Seek as _;
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|e| Error::io("truncate", &self.partial, e))?;
        self.hasher = Hasher::new(self.digest.algorithm());
        self.offset = 0;
        self.written_back = 0;
        self.resumed = false;
        self.poisoned = false;
        Ok(())
    }

    /// Verifies the digest, syncs the data, makes the blob visible and syncs that too; returns the
    /// blob's size. Data that is wrong, or that the disk refused to sync, is removed.
    pub fn commit(mut self) -> Result<u64> {
        if let Some(expected) = self.expected
            && self.offset != expected
        {
            let (digest, actual) = (self.digest.clone(), self.offset);
            return Err(Error::Incomplete {
                digest,
                expected,
                actual,
            });
        }
        let actual = self.hasher.clone().finish();
        if actual != self.digest {
            let (expected, resumed) = (self.digest.clone(), self.resumed);
            self.poisoned = true;
            return Err(Error::DigestMismatch {
                expected,
                actual,
                resumed,
            });
        }
        // After a failed sync the page cache may claim to be clean while the disk is not
        // (fsync(2), "EIO"): such a file is never trusted again.
        self.poisoned = true;
        disk::sync(&self.file, &self.partial)?;
        self.poisoned = false;
        berth_faults::at("blob.commit.after-sync")?;
        disk::rename(&self.partial, &self.blob)?;
        self.settled = true;
        berth_faults::passing("blob.commit.after-rename");
        if let Some(directory) = self.blob.parent()
            && let Err(error) = disk::sync_dir(directory)
        {
            if let Err(undo) = disk::unlink(&self.blob) {
                warn!(digest = %self.digest, error = %undo, "cannot take back an unsynced blob");
            }
            return Err(error);
        }
        Ok(self.offset)
    }

    /// Gives up and removes what has arrived.
    pub fn abort(mut self) -> Result<()> {
        self.settled = true;
        disk::unlink(&self.partial).map(|_| ())
    }

    fn hash_present(&mut self) -> Result<()> {
        let mut buffer = vec![0; READ_BUFFER];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.offset += count as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &self.partial, e)),
            }
        }
        self.resumed = self.offset > 0;
        self.written_back = self.offset;
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        // The lock is still held here, so the path is still this file.
        if self.poisoned || self.offset == 0 {
            if let Err(error) = disk::unlink(&self.partial) {
                warn!(digest = %self.digest, %error, "cannot remove a bad partial file");
            }
        } else if self.expected.is_some() {
            // Gives back what was reserved beyond the data. Failing costs space until it is resumed.
            let _ = self.file.set_len(self.offset);
        }
    }
}
