//! What is saved of a container, and what callers are shown of it.
//!
//! ```text
//! <root>/<id>/            0711, made by create, removed by delete
//!   state.json            this file's `State`, replaced by rename
//!   start                 socket of the start gate, while the container is `created`
//! ```
//!
//! A directory without `state.json` is a create that broke off: its process
//! has ended, because a gate that nobody left to it closes with its maker.

use crate::clock;
use berth_executor::Record;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;

/// Raised with each change that older programs would misread.
pub const VERSION: u32 = 2;

/// Of containers that older programs read aright: the change to 2 is a root
/// that is not that of its mount namespace.
const WITH_MOUNTS_OF_ITS_OWN: u32 = 1;

/// The version to save a container with.
pub fn version_of(container: &Record) -> u32 {
    match container.shares_mounts() {
        true => VERSION,
        false => WITH_MOUNTS_OF_ITS_OWN,
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub version: u32,
    pub oci_version: String,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// Nanoseconds since 1970.
    pub created: u64,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    /// The container has a PID namespace of its own: nothing outlives its
    /// first process.
    pub own_pids: bool,
    pub container: Record,
}

/// The runtime-spec's states, and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The answer to `state`, and one element of `list`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown<'a> {
    oci_version: &'a str,
    pub id: &'a str,
    pub pid: i32,
    pub status: &'static str,
    pub bundle: String,
    rootfs: String,
    pub created: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: &'a HashMap<String, String>,
    pub owner: String,
}

impl State {
    pub fn shown(&self, status: Status, owner: String) -> Shown<'_> {
        Shown {
            oci_version: &self.oci_version,
            id: &self.id,
            pid: match status {
                Status::Stopped => 0,
                _ => self.container.pid,
            },
            status: status.name(),
            bundle: self.bundle.display().to_string(),
            rootfs: self.rootfs.display().to_string(),
            created: clock::nanoseconds(self.created),
            annotations: &self.annotations,
            owner,
        }
    }
}
