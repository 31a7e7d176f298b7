//! What can go wrong with layers and snapshots.

use std::io;
use std::path::PathBuf;

use berth_names::ChainId;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the filesystem failed; the source says how.
    #[error("{operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The file system could not write what these layers hold: they may be damaged from now on.
    #[error("flushing {}", path.display())]
    Flush {
        path: PathBuf,
        layers: Vec<ChainId>,
        source: io::Error,
    },
    /// A record on disk is not the JSON that this crate writes.
    #[error("record {} is damaged", path.display())]
    Record {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("snapshot key {key:?} is refused: {reason}")]
    InvalidKey { key: String, reason: &'static str },
    #[error("snapshot root {} is refused: {reason}", path.display())]
    InvalidRoot { path: PathBuf, reason: &'static str },
    /// Another process holds the store.
    #[error("snapshot root {} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("layer {layer} is not on this node")]
    LayerMissing { layer: ChainId },
    /// The layer cannot be removed while a snapshot stands on it.
    #[error("layer {layer} is in use by snapshot {key:?}")]
    LayerInUse { layer: ChainId, key: String },
    #[error("snapshot {key:?} has {count} layers, the kernel mounts at most {max}")]
    TooManyLayers {
        key: String,
        count: usize,
        max: usize,
    },
    #[error("snapshot {key:?} exists already")]
    SnapshotExists { key: String },
    #[error("snapshot {key:?} does not exist")]
    SnapshotMissing { key: String },
    /// What is written to snapshots cannot be limited on this file system.
    #[error("{} is on {filesystem} without project quotas: {remedy}", root.display())]
    NoQuotas {
        root: PathBuf,
        filesystem: &'static str,
        remedy: &'static str,
    },
    /// Every project id of ours is in use.
    #[error("no project id is free on the file system of {}", root.display())]
    NoProject { root: PathBuf },
    /// A draft was handed to a snapshotter that did not make it.
    #[error("draft of layer {layer} belongs to another snapshotter")]
    ForeignDraft { layer: ChainId },
    /// Only ever in builds for tests.
    #[error(transparent)]
    Fault(#[from] berth_faults::Injected),
}

impl Error {
    /// Whether the filesystem ran out of blocks, inodes or quota.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Error::Io { source, .. } | Error::Flush { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ))
    }
}

/// Turns an I/O result into ours, naming what was attempted and on what.
pub(crate) trait Attempt<T> {
    fn attempt(self, operation: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, operation: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|e| Error::Io {
            operation,
            path: path.into(),
            source: e.into(),
        })
    }
}
