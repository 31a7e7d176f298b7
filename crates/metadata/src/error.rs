use std::path::PathBuf;
use std::sync::Arc;

/// Why a call to the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the store open.
    #[error("the metadata in {dir} is in use by another process{}", holder(.pid))]
    Locked {
        dir: PathBuf,
        /// As that process wrote it into the lock file; it may be stale.
        pid: Option<u32>,
    },
    /// The engine cannot read its own files. The directory must be set aside and restored.
    #[error("the metadata in {dir} is damaged: {detail}")]
    Corrupt { dir: PathBuf, detail: String },
    #[error("the metadata in {dir} has schema {found}; this version reads up to {supported}")]
    SchemaTooNew {
        dir: PathBuf,
        found: u32,
        supported: u32,
    },
    #[error("migrating the metadata from schema {from}: {step}")]
    Migration {
        from: u32,
        step: &'static str,
        #[source]
        source: Box<Error>,
    },
    #[error("{operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The disk is nearly full: additions are refused, removals are not.
    #[error("no space for metadata in {dir}: {free} bytes free, {needed} needed")]
    NoSpace {
        dir: PathBuf,
        free: u64,
        needed: u64,
    },
    #[error("encoding the record {key} of {table}")]
    Encode {
        table: &'static str,
        key: String,
        #[source]
        source: serde_json::Error,
    },
    /// The record exists but cannot be read; it has been set aside.
    #[error("the record {key} of {table} cannot be read: {detail}")]
    Undecodable {
        table: &'static str,
        key: String,
        detail: String,
    },
    /// The engine reported a failure during `operation`.
    #[error("the metadata engine failed: {operation}: {detail}")]
    Engine {
        operation: &'static str,
        detail: String,
    },
    /// An earlier failure made the state on disk unknown; only opening anew helps.
    #[error("the metadata store has stopped after an earlier failure")]
    Poisoned(#[source] Arc<Error>),
    #[error("the export {path} cannot be used: {detail}")]
    BadExport { path: PathBuf, detail: &'static str },
    #[error("writing the export")]
    WriteExport {
        #[source]
        source: std::io::Error,
    },
    /// An import would have mixed two sets of records.
    #[error("the metadata in {dir} is not empty ({records} records); importing needs an empty one")]
    NotEmpty { dir: PathBuf, records: u64 },
    /// The group of batches that this one was committed with failed.
    #[error("committing metadata")]
    Commit(#[source] Arc<Error>),
    /// The store was closed while the batch waited.
    #[error("the metadata store is closed")]
    Closed,
}

/// How the sync of a file is called.
pub(crate) const SYNC: &str = "fdatasync";

impl Error {
    /// Whether the cause, however deep, is a full disk.
    pub fn is_no_space(&self) -> bool {
        match self {
            Error::NoSpace { .. } => true,
            Error::Io { source, .. } | Error::WriteExport { source } => {
                source.kind() == std::io::ErrorKind::StorageFull
            }
            Error::Commit(source) | Error::Poisoned(source) => source.is_no_space(),
            Error::Migration { source, .. } => source.is_no_space(),
            _ => false,
        }
    }
}

impl Error {
    /// Whether the disk took nothing of a write because it is read-only. Where it refuses to sync what
    /// it took before, that is something else.
    pub(crate) fn is_read_only(&self) -> bool {
        match self {
            Error::Io {
                operation, source, ..
            } => source.kind() == std::io::ErrorKind::ReadOnlyFilesystem && *operation != SYNC,
            _ => false,
        }
    }

    /// Whether the database's own files cannot be understood: opening again will not help, a
    /// restored one will. A disk that fails or is full is something else.
    pub(crate) fn is_damage(&self) -> bool {
        use std::io::ErrorKind;
        match self {
            Error::Corrupt { .. } | Error::Engine { .. } => true,
            Error::Io { source, .. } => matches!(
                source.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput
            ),
            _ => false,
        }
    }
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}
