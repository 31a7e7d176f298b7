use std::io;
use std::path::{Path, PathBuf};

use berth_names::Digest;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("blob {0} is not in the store")]
    NotFound(Digest),
    /// Another writer holds this blob's partial file.
    #[error("blob {0} is being written by someone else")]
    Busy(Digest),
    /// The data hashes to something else. It has been removed (at commit) or is damaged (at read).
    /// `resumed` tells that a part of it was left by an earlier attempt: starting over may help.
    #[error("blob {expected} has digest {actual}")]
    DigestMismatch {
        expected: Digest,
        actual: Digest,
        resumed: bool,
    },
    /// More data than the descriptor announced. The partial file is unusable and is removed.
    #[error("blob {digest} is longer than the {expected} bytes announced")]
    TooLong { digest: Digest, expected: u64 },
    /// Commit before all data was there. The partial file is kept for another attempt.
    #[error("blob {digest} has {actual} bytes of the {expected} announced")]
    Incomplete {
        digest: Digest,
        expected: u64,
        actual: u64,
    },
    /// A caller's limit, as for a manifest that is to be held in memory.
    #[error("blob {digest} has {size} bytes, more than the {limit} that may be read at once")]
    OverLimit {
        digest: Digest,
        size: u64,
        limit: u64,
    },
    #[error("no space left to {operation} {}", path.display())]
    NoSpace {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Only ever in builds for tests.
    #[error(transparent)]
    Fault(#[from] berth_faults::Injected),
}

impl Error {
    /// Wraps an I/O error; full disks and exceeded quotas get the variant that tells so.
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace {
                operation,
                path,
                source,
            },
            _ => Self::Io {
                operation,
                path,
                source,
            },
        }
    }
}
