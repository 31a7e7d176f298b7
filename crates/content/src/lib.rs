//! Blobs by digest: what was pulled, kept byte for byte and addressed by its hash.
//!
//! # On disk
//!
//! ```text
//! <root>/blobs/sha256/<64 hex>      complete blobs; immutable
//! <root>/blobs/sha512/<128 hex>
//! <root>/ingest/sha256-<64 hex>     what has arrived of a blob so far
//! ```
//!
//! Directories are 0700, files 0600. A blob appears in `blobs/` only by rename, after its digest
//! was verified and its data synced, and the rename is synced before [`Ingest::commit`] returns:
//! a blob that is visible is complete, and an acknowledged one survives a power cut. A file in
//! `ingest/` promises nothing: its contents are hashed again when it is resumed, and what a crash
//! made of it is found out at commit.
//!
//! The writer of a partial file holds an exclusive `flock` on it, which also covers writers in
//! other processes; a second writer is refused with [`Error::Busy`].
//!
//! All calls block. Async callers wrap them in blocking tasks.

mod disk;
mod error;
mod hasher;
mod ingest;
mod partial;
mod store;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod fault_test;

pub use error::Error;
pub use hasher::Hasher;
pub use ingest::Ingest;
pub use store::{BlobInfo, PartialInfo, Store, Usage};

pub type Result<T, E = Error> = std::result::Result<T, E>;
