//! What a caller chooses, and what it gets back.

use berth_names::Digest;
use serde::{Deserialize, Serialize};

/// Caps that bound what one layer can make the host do. Exceeding one fails the layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub stream_bytes: u64,
    /// Entries, whiteouts and extended headers included; and, counted apart, inodes that are
    /// made, parents that no entry names included.
    pub entries: u64,
    /// Apparent size of one file in bytes; holes of sparse files count.
    pub file_bytes: u64,
    /// Bytes of a path or of a link target; the kernel takes 4095.
    pub path_bytes: usize,
    /// Components of a path.
    pub depth: usize,
    /// Bytes of one extended header (PAX or GNU long name).
    pub extension_bytes: u64,
    /// Bytes of one extended attribute's value; the kernel takes 65,536.
    pub xattr_bytes: usize,
    /// Extended attributes of one entry.
    pub xattrs: usize,
    /// Segments of one sparse file.
    pub sparse_segments: usize,
    /// Bytes of the names of all directories: they are kept until the end, when the times of
    /// directories are set.
    pub directory_name_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_bytes: 256 << 30,
            entries: 8_000_000,
            file_bytes: 1 << 40,
            path_bytes: 4095,
            depth: 1024,
            extension_bytes: 1 << 20,
            xattr_bytes: 65_536,
            xattrs: 256,
            sparse_segments: 1 << 18,
            directory_name_bytes: 128 << 20,
        }
    }
}

/// How to apply a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub limits: Limits,
    /// Largest ratio of uncompressed to compressed bytes; only [`crate::apply_compressed`] knows it.
    pub ratio: RatioLimit,
}

/// Caps decompression bombs. Small streams are exempt, because a short run of zeros
/// compresses a thousandfold in honest layers too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatioLimit {
    pub max_ratio: u64,
    /// Uncompressed bytes below which no ratio is checked.
    pub exempt_bytes: u64,
}

impl Default for RatioLimit {
    fn default() -> Self {
        Self {
            max_ratio: 400,
            exempt_bytes: 1 << 30,
        }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// sha256 of the whole uncompressed archive, trailing padding included.
    pub diff_id: Digest,
    /// Bytes of file content that were written; holes and hard links count nothing.
    pub bytes: u64,
    /// Entries of the archive, extended headers not counted.
    pub entries: u64,
    /// Inodes that the layer takes, parents made for it and whiteouts included.
    pub inodes: u64,
    /// Length of the uncompressed archive in bytes.
    pub stream_bytes: u64,
    /// Extended attributes that were left out: names that a layer does not decide
    /// (`security.selinux`, other hosts' labels) or that the filesystem does not take.
    pub xattrs_skipped: u64,
}
