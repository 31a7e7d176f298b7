//! The stored form of a value, and the files that hold the large ones.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::disk::Disk;

/// Records above this many bytes of JSON live in a file: the engine keeps large values apart
/// without syncing them.
pub(crate) const INLINE_LIMIT: usize = 8 << 10;
/// A side file larger than this was not written by us; it is not read.
const SIDE_FILE_LIMIT: u64 = 64 << 20;

const KIND_INLINE: u8 = 1;
const KIND_SIDE_FILE: u8 = 2;
const SUM: usize = 32;

/// A stored value, taken apart.
pub(crate) enum Stored<'a> {
    Inline(&'a [u8]),
    SideFile {
        sum: [u8; SUM],
        len: u64,
        name: &'a str,
    },
}

/// Takes a value apart; the error says what is wrong with it.
pub(crate) fn parse(raw: &[u8]) -> Result<Stored<'_>, &'static str> {
    match raw.split_first() {
        None => Err("the value is empty"),
        Some((&KIND_INLINE, json)) => Ok(Stored::Inline(json)),
        Some((&KIND_SIDE_FILE, rest)) => {
            let (sum, rest) = rest
                .split_first_chunk::<SUM>()
                .ok_or("the value is cut short")?;
            let (len, name) = rest
                .split_first_chunk::<8>()
                .ok_or("the value is cut short")?;
            let name = std::str::from_utf8(name).map_err(|_| "the side file's name is no text")?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
                return Err("the side file's name is malformed");
            }
            Ok(Stored::SideFile {
                sum: *sum,
                len: u64::from_le_bytes(*len),
                name,
            })
        }
        Some(_) => Err("the value is of an unknown kind"),
    }
}

/// Name of the side file that a stored value refers to, if it refers to one.
pub(crate) fn side_file_of(raw: &[u8]) -> Option<&str> {
    match parse(raw) {
        Ok(Stored::SideFile { name, .. }) => Some(name),
        _ => None,
    }
}

pub(crate) fn inline(json: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(json.len() + 1);
    raw.push(KIND_INLINE);
    raw.extend_from_slice(json);
    raw
}

/// Why the JSON of a value cannot be had.
pub(crate) enum Unreadable {
    /// The value is bad and stays so.
    Bad(String),
    /// Reading failed; the value may be good.
    Io(Error),
}

/// The directory of side files. Names are never reused, so a reader that holds an old value finds
/// the old file or none.
pub(crate) struct SideFiles {
    dir: PathBuf,
    prefix: String,
    next: AtomicU64,
    disk: Disk,
}

impl SideFiles {
    pub(crate) fn new(dir: PathBuf, disk: Disk) -> Self {
        let opened = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let prefix = format!("{:x}-{:x}", opened.as_nanos(), std::process::id());
        Self {
            dir,
            prefix,
            next: AtomicU64::new(0),
            disk,
        }
    }

    /// Writes `json` to a new, synced file and returns the value that refers to it.
    ///
    /// The file's name is durable after [`SideFiles::sync_dir`].
    pub(crate) fn write(&self, json: &[u8]) -> Result<Vec<u8>, Error> {
        let name = format!(
            "{}-{:x}",
            self.prefix,
            self.next.fetch_add(1, Ordering::Relaxed)
        );
        let path = self.dir.join(&name);
        let temporary = self.dir.join(format!("{name}.new"));
        let written = File::create_new(&temporary)
            .and_then(|mut file| {
                self.disk.write(&mut file, json)?;
                self.disk.sync(&file)
            })
            .and_then(|()| self.disk.rename(&temporary, &path));
        if let Err(source) = written {
            // Best effort: a leftover is swept at the next open.
            let _ = fs::remove_file(&temporary);
            return Err(Error::Io {
                operation: "write record",
                path,
                source,
            });
        }
        let mut raw = Vec::with_capacity(1 + SUM + 8 + name.len());
        raw.push(KIND_SIDE_FILE);
        raw.extend_from_slice(&Sha256::digest(json));
        raw.extend_from_slice(&(json.len() as u64).to_le_bytes());
        raw.extend_from_slice(name.as_bytes());
        Ok(raw)
    }

    pub(crate) fn sync_dir(&self) -> Result<(), Error> {
        self.disk.sync_dir(&self.dir).map_err(|source| Error::Io {
            operation: "sync directory",
            path: self.dir.clone(),
            source,
        })
    }

    /// The JSON of a stored value.
    pub(crate) fn read(&self, raw: &[u8]) -> Result<Vec<u8>, Unreadable> {
        match parse(raw).map_err(|reason| Unreadable::Bad(reason.to_owned()))? {
            Stored::Inline(json) => Ok(json.to_vec()),
            Stored::SideFile { sum, len, name } => {
                let path = self.dir.join(name);
                let json = match read_exactly(&path, len) {
                    Ok(json) => json,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Err(Unreadable::Bad(format!("its file {name} is missing")));
                    }
                    Err(source) => {
                        return Err(Unreadable::Io(Error::Io {
                            operation: "read record",
                            path,
                            source,
                        }));
                    }
                };
                if json.len() as u64 != len || <[u8; SUM]>::from(Sha256::digest(&json)) != sum {
                    return Err(Unreadable::Bad(format!("its file {name} is damaged")));
                }
                Ok(json)
            }
        }
    }

    /// Removes a file that no record refers to any more. Failing leaves it for the next sweep.
    pub(crate) fn remove(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.dir.join(name)) {
            tracing::debug!(name, %error, "an unused record file stays until the next start");
        }
    }

    /// Removes every file that `in_use` does not know.
    pub(crate) fn sweep(&self, in_use: impl Fn(&str) -> bool) -> Result<usize, Error> {
        let failed = |source| Error::Io {
            operation: "list records in",
            path: self.dir.clone(),
            source,
        };
        let mut removed = 0;
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name.to_str().is_some_and(&in_use) {
                continue;
            }
            self.remove(&name.to_string_lossy());
            removed += 1;
        }
        Ok(removed)
    }
}

/// Reads a file that should have `len` bytes; of a longer one, enough to notice.
fn read_exactly(path: &Path, len: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut json = Vec::new();
    let limit = len.min(SIDE_FILE_LIMIT) + 1;
    File::open(path)?.take(limit).read_to_end(&mut json)?;
    Ok(json)
}
