//! Files to an OCI artifact.

use std::sync::Arc;

use berth_names::Digest;
use serde_json::{Value, json};

use super::{Compression, Error, Image, PackedLayer, Result};

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// What an artifact is made from: blobs with titles, and the empty configuration.
#[derive(Debug, Clone)]
pub struct Artifact {
    kind: String,
    files: Vec<(String, Arc<PackedLayer>)>,
}

impl Artifact {
    pub fn new(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            files: Vec::new(),
        }
    }

    /// Adds a blob with a title.
    pub fn file(mut self, title: &str, content: impl Into<Vec<u8>>) -> Self {
        let bytes = content.into();
        let digest = Digest::sha256_of(&bytes);
        let blob = PackedLayer {
            diff_id: digest.clone(),
            digest,
            compression: Compression::Plain,
            bytes,
        };
        self.files.push((title.to_owned(), Arc::new(blob)));
        self
    }

    /// Writes the documents, to be pushed as those of an image are.
    pub fn build(self) -> Result<Image> {
        let config = b"{}".to_vec();
        let config_digest = Digest::sha256_of(&config);
        let layers: Vec<Value> = self
            .files
            .iter()
            .map(|(title, blob)| {
                json!({
                    "mediaType": "application/octet-stream",
                    "digest": blob.digest.as_str(),
                    "size": blob.bytes.len(),
                    "annotations": { "org.opencontainers.image.title": title },
                })
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": self.kind,
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "digest": config_digest.as_str(),
                "size": config.len(),
            },
            "layers": layers,
        });
        let manifest = serde_json::to_vec(&manifest).map_err(|source| Error::Encode {
            document: "manifest",
            source,
        })?;
        Ok(Image {
            manifest_media_type: MANIFEST_TYPE,
            manifest_digest: Digest::sha256_of(&manifest),
            manifest,
            config,
            config_digest,
            layers: self.files.into_iter().map(|(_, blob)| blob).collect(),
        })
    }
}
