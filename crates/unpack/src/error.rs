//! Why a layer was not unpacked.

use std::io;

use serde::{Deserialize, Serialize};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive's bytes could not be read or decompressed.
    #[error("reading the archive at byte {offset}")]
    Read { offset: u64, source: io::Error },
    /// The archive ended inside a header or a file.
    #[error("archive ends early, at byte {offset}")]
    Truncated { offset: u64 },
    /// A block is not a tar header, or one whose meaning tools disagree on.
    #[error("bad header at byte {offset}: {reason}")]
    Header { offset: u64, reason: HeaderFault },
    /// An entry that no layer may contain.
    #[error("entry {entry:?} is refused: {reason}")]
    Refused { entry: String, reason: Refusal },
    #[error("entry {entry:?} exceeds the limit of {max} {what}")]
    Limit {
        entry: String,
        what: &'static str,
        max: u64,
    },
    #[error("archive is larger than {max} bytes")]
    TooLarge { max: u64 },
    /// A call to the filesystem failed for this entry.
    #[error("{operation} for entry {entry:?}")]
    Write {
        operation: &'static str,
        entry: String,
        source: io::Error,
    },
    /// A file could not be packed.
    #[error("reading {entry:?}")]
    Source { entry: String, source: io::Error },
    /// Whoever takes the archive, or is told of it, did not.
    #[error("writing the archive")]
    Sink(#[source] io::Error),
    /// What a process that unpacked for this one answered, with all causes.
    #[error("{told}")]
    Told { told: String, fault: Fault },
    /// The process that unpacked for this one was lost before it answered, or answered nonsense.
    #[error("the process that unpacks the layer ended before it was done: {how}; try again")]
    Lost { how: String },
    /// No process could be made that unpacks for this one.
    #[error("{operation} for a process that unpacks the layer")]
    Process {
        operation: &'static str,
        source: io::Error,
    },
}

/// Who is to blame, as callers need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The archive itself: fetching it again gives the same answer.
    Archive,
    /// The filesystem ran out of blocks, inodes or quota.
    Space,
    /// What it was to be written to takes no writes.
    ReadOnly,
    /// Anything else of this host, or of what the archive comes from.
    Host,
}

impl Error {
    pub fn fault(&self) -> Fault {
        match self {
            Error::Truncated { .. }
            | Error::Header { .. }
            | Error::Refused { .. }
            | Error::Limit { .. }
            | Error::TooLarge { .. } => Fault::Archive,
            Error::Read { source, .. } => match source.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Fault::Archive,
                _ => Fault::Host,
            },
            Error::Write { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::Space,
                io::ErrorKind::ReadOnlyFilesystem => Fault::ReadOnly,
                // A name that no filesystem here takes.
                io::ErrorKind::InvalidFilename => Fault::Archive,
                _ => Fault::Host,
            },
            Error::Told { fault, .. } => *fault,
            Error::Source { .. } | Error::Sink(_) | Error::Lost { .. } | Error::Process { .. } => {
                Fault::Host
            }
        }
    }

    /// Whether the filesystem ran out of blocks, inodes or quota.
    pub fn is_out_of_space(&self) -> bool {
        self.fault() == Fault::Space
    }

    /// Whether what it was to be written to takes no writes.
    pub fn is_read_only(&self) -> bool {
        self.fault() == Fault::ReadOnly
    }

    /// Whether the archive itself is at fault: fetching it again gives the same answer.
    pub fn is_bad_archive(&self) -> bool {
        self.fault() == Fault::Archive
    }
}

/// What is wrong with a header block or an extended header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    #[error("checksum does not match")]
    Checksum,
    #[error("{0} is not a number in range")]
    Number(&'static str),
    #[error("one zero block is followed by another header")]
    LoneZeroBlock,
    #[error("size is given to an entry type that has no data")]
    UnexpectedData,
    #[error("PAX size and header size disagree")]
    SizeDisagreement,
    #[error("malformed PAX record")]
    PaxRecord,
    #[error("global PAX header sets what only an entry may set")]
    GlobalStructure,
    #[error("the same extension is given twice for one entry")]
    DuplicateExtension,
    #[error("extended header without an entry")]
    DanglingExtension,
    #[error("long name without terminator or empty")]
    LongName,
    #[error("sparse map is malformed")]
    SparseMap,
    #[error("entry type {0:#04x} is not supported")]
    UnknownType(u8),
}

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("empty path")]
    EmptyPath,
    #[error("path contains \"..\"")]
    ParentComponent,
    #[error("path contains a NUL byte")]
    Nul,
    #[error("the root can only be a directory")]
    RootNotDirectory,
    #[error("whiteout names nothing that can be removed")]
    BadWhiteout,
    #[error("a parent is not a directory")]
    ParentNotDirectory,
    #[error("too many symbolic links in the path")]
    LinkLoop,
    #[error("replaces a directory that is not empty")]
    ReplacesDirectory,
    #[error("cannot overwrite a directory with a non-directory")]
    OverwritesDirectory,
    #[error("cannot overwrite a non-directory with a directory")]
    OverwritesFile,
    #[error("link target is missing")]
    LinkTargetMissing,
    #[error("link target cannot be linked to")]
    BadLinkTarget,
    #[error("empty link target")]
    EmptyLinkTarget,
    #[error("attribute is reserved for the overlay filesystem")]
    OverlayAttribute,
    #[error("attribute is malformed")]
    BadAttribute,
}
