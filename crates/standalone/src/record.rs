//! What is written down about a container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_names::{ContainerId, Digest};
use serde::{Deserialize, Serialize};

use crate::config::{Config, HostConfig, NetworkingConfig, PortBinding};
use crate::endpoint::EndpointSettings;
use crate::health::Health;

/// Nanoseconds since the Unix epoch.
pub type Nanos = i64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Created,
    Running,
    Paused,
    /// It ended and will be started again.
    Restarting,
    Exited,
    /// On its way out, or not whole yet: what a crash leaves of it goes.
    Removing,
    /// Its removal failed.
    Dead,
}

impl Phase {
    /// As the Engine API calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }

    /// Whether there are processes.
    pub fn runs(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// Where something is mounted, as it was decided when the container was made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub r#type: String,
    /// Of a volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// On the host.
    pub source: String,
    pub destination: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    pub mode: String,
    #[serde(rename = "RW")]
    pub rw: bool,
    pub propagation: String,
    /// What of a volume is mounted; empty means all of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sub_path: String,
    /// Of a filesystem in memory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// A volume that nobody named goes with the container if that is asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub id: ContainerId,
    pub name: String,
    pub created_at: Nanos,
    pub image_id: Digest,
    pub config: Config,
    pub host: HostConfig,
    #[serde(default)]
    pub networking: NetworkingConfig,
    /// The program and its arguments, from the request and the image.
    pub command: Vec<String>,
    pub mounts: Vec<MountPoint>,
    pub log_path: Option<PathBuf>,
    pub phase: Phase,
    #[serde(default)]
    pub pid: u32,
    #[serde(default)]
    pub exit_code: i32,
    /// Why the last start failed.
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    pub oom_killed: bool,
    #[serde(default)]
    pub started_at: Nanos,
    #[serde(default)]
    pub finished_at: Nanos,
    /// By its policy, since it was last started by hand.
    #[serde(default)]
    pub restarts: u32,
    /// How often it ended.
    #[serde(default)]
    pub ends: u64,
    /// Of a container that is checked, from its first start on.
    #[serde(default)]
    pub health: Option<Health>,
    /// When it goes, so do the volumes that nobody named.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removes_volumes: bool,
    /// Its policy waits until it is started by hand.
    #[serde(default)]
    pub stopped_by_hand: bool,
    /// What is asked of its networks, by their names.
    #[serde(default)]
    pub endpoints: BTreeMap<String, EndpointSettings>,
    /// The same with what it has there, while it runs.
    #[serde(default)]
    pub joined: BTreeMap<String, EndpointSettings>,
    /// What is published while it runs, by `port/protocol`.
    #[serde(default)]
    pub ports: BTreeMap<String, Vec<PortBinding>>,
    /// While it runs.
    #[serde(default)]
    pub addresses: Vec<std::net::IpAddr>,
}

impl Record {
    pub fn has_anonymous_volumes(&self) -> bool {
        self.mounts.iter().any(|point| point.anonymous)
    }
}
