//! Everything that is stored, and how.
//!
//! # Files
//!
//! ```text
//! <meta>/lock            flock held while open; contains the holder's pid
//! <meta>/reserve         space given back when the disk is full, so that removals still work
//! <meta>/sled/           the database: sled 0.34's conf, db, snap.*, blobs/
//! <meta>/journal/<first> groups since the exports: see `journal.rs`
//! <meta>/exports/<first>.jsonl  the last three exports: see `export.rs`
//! <meta>/damaged/<time>/ databases that could not be read, the last two
//! <meta>/values/<name>   one record larger than 8 KiB each; the name is unique, never reused
//! ```
//!
//! # Tables (schema 1)
//!
//! | table | key | record |
//! |---|---|---|
//! | `images` | config digest, or manifest digest of an artifact | [`ImageRecord`] |
//! | `references` | canonical reference: `repository:tag` or `repository@digest` | [`ReferenceRecord`] |
//! | `leases` | name of the lease | [`LeaseRecord`] |
//! | `pods` | sandbox id | the pod's record, defined by `lifecycle` |
//! | `containers` | container id | the container's record, defined by `lifecycle` |
//! | `networks` | chosen by `network` | defined by `network` |
//! | `state` | name of the fact, such as `boot-id` | any JSON |
//! | `set-aside` | `<table>/<key>` in raw bytes | the value as it was found |
//! | `store` | `schema`, `sequence` | u32 and u64, little endian |
//! | `layers` | container id | what a writable layer that is kept stands on, defined by `lifecycle` |
//! | `standalone` | container id | the container's record, defined by `standalone` |
//! | `volumes` | name of the volume | the volume's record, defined by `standalone` |
//! | `builds` | digest of what a step was made of | its outcome, defined by `build` |
//!
//! `sequence` counts committed groups: the journal's groups above it are applied at the next open.
//!
//! # Values
//!
//! A value is one byte of kind, then
//! - kind 1: the record as JSON;
//! - kind 2: sha256 (32 bytes) and length (u64, little endian) of the JSON, and the name of the
//!   file under `values/` that holds it.
//!
//! # Changes
//!
//! New optional fields need no migration: fields unknown to a reader are ignored and absent ones
//! take their default. Anything else raises [`VERSION`] and adds a [`Migration`].

use std::time::SystemTime;

use berth_names::{ChainId, ContainerId, Digest, SandboxId};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::table::Table;

/// Version of the schema that this code reads and writes.
pub const VERSION: u32 = 1;

/// Names on disk, at the index that the constants below use.
pub(crate) const TABLES: [&str; 13] = [
    "images",
    "references",
    "leases",
    "pods",
    "containers",
    "networks",
    "state",
    "set-aside",
    "store",
    "layers",
    "standalone",
    "volumes",
    "builds",
];
pub(crate) const SET_ASIDE: usize = 7;
pub(crate) const STORE: usize = 8;

pub const IMAGES: Table<Digest, ImageRecord> = Table::at(0);
pub const REFERENCES: Table<String, ReferenceRecord> = Table::at(1);
pub const LEASES: Table<String, LeaseRecord> = Table::at(2);

/// Pods; the record type is the caller's.
pub const fn pods<V>() -> Table<SandboxId, V> {
    Table::at(3)
}

/// Containers; the record type is the caller's.
pub const fn containers<V>() -> Table<ContainerId, V> {
    Table::at(4)
}

/// Networks and their addresses; the record type is the caller's.
pub const fn networks<V>() -> Table<String, V> {
    Table::at(5)
}

/// Single facts, one record each; the record type is the caller's.
pub const fn state<V>() -> Table<String, V> {
    Table::at(6)
}

/// Writable layers that outlive containers; the record type is the caller's.
pub const fn layers<V>() -> Table<ContainerId, V> {
    Table::at(9)
}

/// Containers that stand alone; the record type is the caller's.
pub const fn standalone<V>() -> Table<ContainerId, V> {
    Table::at(10)
}

/// Named volumes; the record type is the caller's.
pub const fn volumes<V>() -> Table<String, V> {
    Table::at(11)
}

/// Outcomes of steps of builds; the record type is the caller's.
pub const fn builds<V>() -> Table<Digest, V> {
    Table::at(12)
}

/// An unpacked, complete image. Its key is the digest of its config, or an artifact's manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The platform manifest that was pulled last for this config.
    pub manifest: Digest,
    /// Every blob that the image keeps from collection: indexes, manifest, config, layers.
    pub blobs: Vec<Digest>,
    /// Bottom to top.
    pub layers: Vec<LayerRecord>,
    /// Manifest, config and compressed layers together, in bytes.
    pub size: u64,
    /// The image's config as the registry served it, without its history.
    pub config: serde_json::Value,
    pub pulled_at: SystemTime,
    /// Kept by the kubelet's image collection whatever happens.
    #[serde(default)]
    pub pinned: bool,
    /// Present where this is an OCI artifact: then the key is the manifest's digest, the config is
    /// empty, and the only layer is made of the blobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What is said of the image, to those that it is pushed to. Among its blobs, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attestations: Vec<AttestationRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestationRecord {
    /// A URI.
    pub predicate_type: String,
    /// The blob that has it.
    pub predicate: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The compressed blob.
    pub digest: Digest,
    pub diff_id: Digest,
    pub chain_id: ChainId,
    /// Of the compressed blob, in bytes.
    pub size: u64,
}

/// What a reference means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceRecord {
    /// Key in `images`.
    pub image: Digest,
    /// The manifest or index that the registry gave for the reference.
    pub target: Digest,
}

/// Keeps content from collection while no image does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeaseRecord {
    #[serde(default)]
    pub blobs: Vec<Digest>,
    #[serde(default)]
    pub layers: Vec<ChainId>,
    /// Absent: until it is removed.
    #[serde(default)]
    pub expires_at: Option<SystemTime>,
}

/// One step from an older schema to the next.
#[derive(Clone, Copy)]
pub(crate) struct Migration {
    /// The schema that it starts from; it leads to `from + 1`.
    pub from: u32,
    pub step: &'static str,
    /// Reads the old records and says what to write. The result and the new schema number are one
    /// transaction, so that a crash leaves either schema and nothing between.
    pub run: fn(&dyn OldRecords) -> Result<Vec<Rewrite>, Error>,
}

/// Read access to raw records for a migration.
pub(crate) trait OldRecords {
    /// Key and JSON of every readable record in a table.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "schema 1 is the first: no step reads yet")
    )]
    fn read(&self, table: usize) -> Result<Vec<(String, serde_json::Value)>, Error>;
}

/// A change that a migration makes; `None` removes the record.
#[derive(Debug)]
pub(crate) struct Rewrite {
    pub table: usize,
    pub key: String,
    pub value: Option<serde_json::Value>,
}

/// Every step, oldest first. Schema 1 is the first, so there is none yet.
pub(crate) const MIGRATIONS: &[Migration] = &[];
