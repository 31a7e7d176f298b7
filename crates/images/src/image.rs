use std::collections::BTreeMap;
use std::time::SystemTime;

use berth_names::{ChainId, Digest};
use serde::{Deserialize, Deserializer, Serialize};

use crate::platform::Platform;

/// An image on this node, complete and unpacked.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Digest of the config: the image's identity.
    pub id: Digest,
    /// `repository:tag`, sorted.
    pub repo_tags: Vec<String>,
    /// `repository@digest` of what the registry gave for the reference (an index, if there is
    /// one), sorted.
    pub repo_digests: Vec<String>,
    /// The manifest of this platform.
    pub manifest: Digest,
    /// Manifest, config and compressed layers, in bytes: what containerd reports as an image's
    /// size. What it takes unpacked is in [`crate::Images::fs_usage`].
    pub size: u64,
    pub config: ImageConfig,
    /// Bottom to top.
    pub layers: Vec<ChainId>,
    pub pulled_at: SystemTime,
    /// Not to be collected by the kubelet.
    pub pinned: bool,
    /// Type of an artifact: files to be mounted, nothing to be run. Its id is the digest of its
    /// manifest, because unrelated artifacts share a config.
    pub artifact: Option<String>,
}

/// What an image says about running it (OCI image-spec, "config.md"). Absent fields and `null`
/// are empty.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ImageConfig {
    #[serde(deserialize_with = "or_empty")]
    pub architecture: String,
    #[serde(deserialize_with = "or_empty")]
    pub os: String,
    #[serde(deserialize_with = "or_empty")]
    pub variant: String,
    /// RFC 3339, as the builder wrote it.
    #[serde(deserialize_with = "or_empty")]
    pub created: String,
    #[serde(deserialize_with = "or_empty")]
    config: Execution,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "PascalCase")]
struct Execution {
    #[serde(deserialize_with = "or_empty")]
    user: String,
    #[serde(deserialize_with = "or_empty")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_empty")]
    working_dir: String,
    #[serde(deserialize_with = "or_empty")]
    volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "or_empty")]
    stop_signal: String,
    #[serde(deserialize_with = "or_empty")]
    exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "or_empty")]
    labels: BTreeMap<String, String>,
    healthcheck: Option<Healthcheck>,
    #[serde(deserialize_with = "or_empty")]
    shell: Vec<String>,
}

/// Docker's health check; durations in nanoseconds, zero for the default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    #[serde(deserialize_with = "or_empty")]
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}

impl ImageConfig {
    /// What it was built for; `None` of old builders' images, which do not say.
    pub fn platform(&self) -> Option<Platform> {
        let is_told = !self.os.is_empty() || !self.architecture.is_empty();
        is_told.then(|| Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        })
    }

    /// `uid`, `name`, either with `:gid` or `:group`, or empty for root.
    pub fn user(&self) -> &str {
        &self.config.user
    }

    /// `NAME=value` each.
    pub fn env(&self) -> &[String] {
        &self.config.env
    }

    pub fn entrypoint(&self) -> &[String] {
        &self.config.entrypoint
    }

    pub fn cmd(&self) -> &[String] {
        &self.config.cmd
    }

    pub fn working_dir(&self) -> &str {
        &self.config.working_dir
    }

    /// Paths inside the container that are to be volumes. Not checked: they are the image's words.
    pub fn volumes(&self) -> impl Iterator<Item = &str> {
        self.config.volumes.keys().map(String::as_str)
    }

    /// A name or a number, or empty.
    pub fn stop_signal(&self) -> &str {
        &self.config.stop_signal
    }

    /// `port/protocol` each.
    pub fn exposed_ports(&self) -> impl Iterator<Item = &str> {
        self.config.exposed_ports.keys().map(String::as_str)
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.config.labels
    }

    pub fn healthcheck(&self) -> Option<&Healthcheck> {
        self.config.healthcheck.as_ref()
    }

    pub fn shell(&self) -> &[String] {
        &self.config.shell
    }
}

/// Go writes `null` for what is empty.
fn or_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
