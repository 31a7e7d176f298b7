use std::fs::{self, DirBuilder, DirEntry, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use berth_names::{Algorithm, Digest};
use bytes::Bytes;
use tracing::warn;

use crate::partial::Partial;
use crate::{Error, Hasher, Ingest, Result, disk};

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];
const READ_BUFFER: usize = 256 << 10;
/// How often a waiting writer looks again.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// A directory of blobs. Clones share it.
#[derive(Clone)]
pub struct Store {
    root: Arc<Path>,
}

/// A complete blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// When its last byte was written.
    pub modified: SystemTime,
}

/// A blob that has not arrived completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialInfo {
    pub digest: Digest,
    /// Bytes present.
    pub size: u64,
    /// When the last byte arrived.
    pub modified: SystemTime,
}

/// What the store takes on disk, partial files included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes (blocks, not lengths).
    pub bytes: u64,
    pub inodes: u64,
}

impl Store {
    /// Opens the store at `root`, making its directories if they are missing.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Self { root: root.into() };
        for directory in [store.ingest_dir()]
            .into_iter()
            .chain(ALGORITHMS.map(|algorithm| store.blob_dir(algorithm)))
        {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(|e| Error::io("create", &directory, e))?;
        }
        // A blob's durability includes that of every directory above it.
        disk::sync_dir(&root.join("blobs"))?;
        disk::sync_dir(root)?;
        Ok(store)
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blob_dir(digest.algorithm()).join(digest.hex())
    }

    /// Size in bytes of a complete blob; `None` if the store does not have it.
    pub fn has(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.path(digest);
        match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("stat", &path, e)),
        }
    }

    /// Opens a blob for reading. Its bytes were verified when it was stored, not now.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::NotFound(digest.clone()),
            _ => Error::io("open", &path, e),
        })
    }

    /// Reads a whole blob of at most `limit` bytes and verifies it.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Bytes> {
        let path = self.path(digest);
        let file = self.open_blob(digest)?;
        let size = file
            .metadata()
            .map_err(|e| Error::io("stat", &path, e))?
            .len();
        if size > limit {
            return Err(Error::OverLimit {
                digest: digest.clone(),
                size,
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        // One byte over the size seen, so that a file that grew fails verification instead of
        // filling memory.
        (&file)
            .take(size + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("read", &path, e))?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        verified(digest, hasher)?;
        Ok(bytes.into())
    }

    /// Hashes a blob as it is on disk now; [`Error::DigestMismatch`] if it is damaged.
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        self.verify_with(digest, |_| {})
    }

    /// The same for readers that have time: `read` is told after each piece how many bytes it had,
    /// and may wait. The blob does not stay in the page cache: it is read again by nobody soon, and
    /// what verifies it next is to see the disk.
    pub fn verify_with(&self, digest: &Digest, mut read: impl FnMut(u64)) -> Result<()> {
        let path = self.path(digest);
        let mut file = self.open_blob(digest)?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; READ_BUFFER];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    read(count as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("read", &path, e)),
            }
        }
        disk::forget(&file);
        verified(digest, hasher)
    }

    /// Starts or resumes the arrival of a blob. `expected_size`, from its descriptor, is a hard
    /// limit and reserves the space; what a former attempt left is hashed before this returns.
    ///
    /// [`Error::Busy`] if another writer is at it.
    pub fn ingest(&self, digest: &Digest, expected_size: Option<u64>) -> Result<Ingest> {
        let partial = self.partial_path(digest);
        let file = Partial::lock(digest, &partial)?;
        Ingest::resume(
            digest.clone(),
            expected_size,
            file,
            partial,
            self.path(digest),
        )
    }

    /// Like [`Store::ingest`], but waits up to `patience` for another writer to finish. The blob
    /// may be complete when this returns: ask [`Store::has`].
    pub fn ingest_within(
        &self,
        digest: &Digest,
        expected_size: Option<u64>,
        patience: Duration,
    ) -> Result<Ingest> {
        let deadline = Instant::now() + patience;
        loop {
            match self.ingest(digest, expected_size) {
                Err(Error::Busy(_)) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
                result => return result,
            }
        }
    }

    /// Stores bytes that are already in memory, such as a manifest. A blob that is present stays.
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if self.has(digest)?.is_some() {
            return Ok(());
        }
        let patience = Duration::from_secs(10);
        let mut ingest = self.ingest_within(digest, Some(bytes.len() as u64), patience)?;
        ingest.restart()?;
        ingest.write(bytes)?;
        ingest.commit().map(|_| ())
    }

    /// A file without a name on the store's disk. It goes when it is closed.
    pub fn spool(&self) -> Result<File> {
        let directory = self.ingest_dir();
        tempfile::tempfile_in(&directory).map_err(|e| Error::io("make a file in", &directory, e))
    }

    /// Complete blobs, in no order.
    pub fn list(&self) -> Result<Vec<BlobInfo>> {
        let mut blobs = Vec::new();
        for algorithm in ALGORITHMS {
            for entry in entries(&self.blob_dir(algorithm))? {
                let name = entry.file_name();
                let text = format!("{}:{}", algorithm.as_str(), name.to_string_lossy());
                if let Some((digest, metadata)) = described(&entry, &text)? {
                    let (size, modified) = (metadata.len(), modified(&metadata));
                    blobs.push(BlobInfo {
                        digest,
                        size,
                        modified,
                    });
                }
            }
        }
        Ok(blobs)
    }

    /// Partial files, also those being written.
    pub fn partials(&self) -> Result<Vec<PartialInfo>> {
        let mut partials = Vec::new();
        for entry in entries(&self.ingest_dir())? {
            let text = entry.file_name().to_string_lossy().replacen('-', ":", 1);
            if let Some((digest, metadata)) = described(&entry, &text)? {
                let (size, modified) = (metadata.len(), modified(&metadata));
                partials.push(PartialInfo {
                    digest,
                    size,
                    modified,
                });
            }
        }
        Ok(partials)
    }

    /// Removes a complete blob; `false` if there was none. Readers that have it open keep it.
    pub fn remove(&self, digest: &Digest) -> Result<bool> {
        disk::unlink(&self.path(digest))
    }

    /// Removes what has arrived of a blob; `false` if there was nothing. [`Error::Busy`] while it
    /// is being written.
    pub fn remove_partial(&self, digest: &Digest) -> Result<bool> {
        let partial = self.partial_path(digest);
        if !partial.exists() {
            return Ok(false);
        }
        let _lock = Partial::lock(digest, &partial)?;
        disk::unlink(&partial)
    }

    /// What the store occupies. One stat per blob: a node has hundreds of them, not millions.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let directories = [self.ingest_dir()]
            .into_iter()
            .chain(ALGORITHMS.map(|algorithm| self.blob_dir(algorithm)));
        for directory in directories {
            usage.inodes += 1;
            for entry in entries(&directory)? {
                if let Some(metadata) = stat(&entry)? {
                    usage.bytes += metadata.blocks() * 512;
                    usage.inodes += 1;
                }
            }
        }
        Ok(usage)
    }

    fn blob_dir(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.as_str())
    }

    fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.ingest_dir()
            .join(format!("{}-{}", digest.algorithm().as_str(), digest.hex()))
    }
}

fn verified(expected: &Digest, hasher: Hasher) -> Result<()> {
    let actual = hasher.finish();
    if actual == *expected {
        return Ok(());
    }
    Err(Error::DigestMismatch {
        expected: expected.clone(),
        actual,
        resumed: false,
    })
}

fn entries(directory: &Path) -> Result<Vec<DirEntry>> {
    fs::read_dir(directory)
        .and_then(Iterator::collect)
        .map_err(|e| Error::io("list", directory, e))
}

/// What a directory entry is called and its metadata; `None` for strangers and for what has
/// vanished since the directory was read.
fn described(entry: &DirEntry, digest: &str) -> Result<Option<(Digest, fs::Metadata)>> {
    let Ok(digest) = Digest::parse(digest) else {
        warn!(path = %entry.path().display(), "file in the content store is no blob");
        return Ok(None);
    };
    Ok(stat(entry)?.map(|metadata| (digest, metadata)))
}

fn stat(entry: &DirEntry) -> Result<Option<fs::Metadata>> {
    match entry.metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("stat", &entry.path(), e)),
    }
}

fn modified(metadata: &fs::Metadata) -> SystemTime {
    metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
#[path = "store_test.rs"]
mod tests;
