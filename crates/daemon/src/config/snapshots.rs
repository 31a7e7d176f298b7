//! `[snapshots]`.

use serde::{Deserialize, Serialize};

/// Image layers and what containers write over them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Snapshots {
    /// Bytes that a container may write to its layer, unless it is told otherwise; 0 means no limit.
    pub writable_max_bytes: u64,
}

impl Snapshots {
    pub fn limit(&self) -> Option<u64> {
        (self.writable_max_bytes > 0).then_some(self.writable_max_bytes)
    }
}
