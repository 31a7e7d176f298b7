//! Layers and settings to a manifest with its configuration.

use std::sync::Arc;
use std::time::Duration;

use berth_names::Digest;
use serde_json::{Map, Value, json};

use super::{Compression, Error, PackedLayer, Result};

/// Which family of media types the documents use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Oci,
    /// Docker image manifest, version 2, schema 2.
    DockerSchema2,
}

/// What an image is made from.
#[derive(Debug, Clone, Default)]
pub struct Recipe {
    format: Format,
    layers: Vec<Arc<PackedLayer>>,
    settings: Map<String, Value>,
    annotations: Map<String, Value>,
}

/// A finished image, all in memory.
#[derive(Debug, Clone)]
pub struct Image {
    pub manifest_media_type: &'static str,
    pub manifest: Vec<u8>,
    /// What a reference by digest names.
    pub manifest_digest: Digest,
    pub config: Vec<u8>,
    /// The image id.
    pub config_digest: Digest,
    /// Bottom to top.
    pub layers: Vec<Arc<PackedLayer>>,
}

impl Recipe {
    /// An OCI image without layers.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Puts a layer on top.
    pub fn layer(mut self, layer: Arc<PackedLayer>) -> Self {
        self.layers.push(layer);
        self
    }

    /// `uid`, `name`, `uid:gid` or `name:group`.
    pub fn user(self, user: &str) -> Self {
        self.set("User", json!(user))
    }

    pub fn entrypoint(self, words: &[&str]) -> Self {
        self.set("Entrypoint", json!(words))
    }

    pub fn cmd(self, words: &[&str]) -> Self {
        self.set("Cmd", json!(words))
    }

    /// `NAME=value` each.
    pub fn env(self, variables: &[&str]) -> Self {
        self.set("Env", json!(variables))
    }

    pub fn working_dir(self, path: &str) -> Self {
        self.set("WorkingDir", json!(path))
    }

    pub fn stop_signal(self, signal: &str) -> Self {
        self.set("StopSignal", json!(signal))
    }

    /// A command of its own, as often as that.
    pub fn healthcheck(self, command: &[&str], interval: Duration) -> Self {
        let test: Vec<&str> = [&["CMD"], command].concat();
        let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        self.set("Healthcheck", json!({"Test": test, "Interval": nanos}))
    }

    /// `80/tcp` each.
    pub fn exposed_ports(self, ports: &[&str]) -> Self {
        let ports: Map<_, _> = ports
            .iter()
            .map(|port| ((*port).to_owned(), json!({})))
            .collect();
        self.set("ExposedPorts", Value::Object(ports))
    }

    /// Paths that are to be volumes.
    pub fn volumes(self, paths: &[&str]) -> Self {
        let paths: Map<_, _> = paths
            .iter()
            .map(|path| ((*path).to_owned(), json!({})))
            .collect();
        self.set("Volumes", Value::Object(paths))
    }

    pub fn labels(self, labels: &[(&str, &str)]) -> Self {
        let labels: Map<_, _> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        self.set("Labels", Value::Object(labels))
    }

    /// Of the manifest.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), json!(value));
        self
    }

    /// Writes the documents.
    pub fn build(self) -> Result<Image> {
        let diff_ids: Vec<&str> = self
            .layers
            .iter()
            .map(|layer| layer.diff_id.as_str())
            .collect();
        let config = encode(
            "configuration",
            &json!({
                "architecture": architecture(),
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": self.settings,
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            }),
        )?;
        let config_digest = Digest::sha256_of(&config);
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                let media_type = self.format.layer(layer.compression);
                descriptor(media_type, &layer.digest, layer.bytes.len())
            })
            .collect();
        let manifest_media_type = self.format.manifest();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_media_type,
            "config": descriptor(self.format.config(), &config_digest, config.len()),
            "layers": layers,
        });
        if !self.annotations.is_empty() {
            manifest["annotations"] = Value::Object(self.annotations);
        }
        let manifest = encode("manifest", &manifest)?;
        let manifest_digest = Digest::sha256_of(&manifest);
        Ok(Image {
            manifest_media_type,
            manifest,
            manifest_digest,
            config,
            config_digest,
            layers: self.layers,
        })
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.settings.insert(key.to_owned(), value);
        self
    }
}

impl Format {
    fn manifest(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.manifest.v1+json",
            Format::DockerSchema2 => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Format::Oci => "application/vnd.oci.image.config.v1+json",
            Format::DockerSchema2 => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Format::Oci, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Format::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Format::DockerSchema2, Compression::Plain) => {
                "application/vnd.docker.image.rootfs.diff.tar"
            }
            (Format::DockerSchema2, Compression::Gzip) => {
                "application/vnd.docker.image.rootfs.diff.tar.gzip"
            }
        }
    }
}

/// The name that Go, and so every image, has for this machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest.as_str(), "size": size })
}

fn encode(document: &'static str, value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|source| Error::Encode { document, source })
}
