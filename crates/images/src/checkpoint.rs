//! Images that carry a container's checkpoint: a single layer with what an archive of one has, told
//! by an annotation of the manifest. Registries are how kubelets hand checkpoints on.

use std::collections::BTreeMap;
use std::fs::File;

use berth_names::Digest;
use serde::Deserialize;

use crate::images::{Images, blocking};
use crate::manifest::MAX_MANIFEST;
use crate::{Error, Image, Result};

/// What checkpoint tools write; the second is older.
const ANNOTATIONS: [&str; 2] = [
    "org.criu.checkpoint.container.name",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
];

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    digest: String,
}

impl Images {
    /// The layer that is a checkpoint's archive, as it was fetched; `None` for images that are run.
    ///
    /// # Errors
    /// If the manifest or the layer cannot be read.
    pub async fn checkpoint(&self, image: &Image) -> Result<Option<File>> {
        let runs = !image.config.entrypoint().is_empty() || !image.config.cmd().is_empty();
        if runs || image.layers.len() != 1 || image.artifact.is_some() {
            return Ok(None);
        }
        let content = self.shared.content.clone();
        let digest = image.manifest.clone();
        blocking("look for a checkpoint in an image", move || {
            let failed = Error::content("read a manifest");
            let bytes = content.read(&digest, MAX_MANIFEST).map_err(failed)?;
            let Some(layer) = archive_layer(&bytes) else {
                return Ok(None);
            };
            let opened = content.open_blob(&layer);
            opened.map(Some).map_err(Error::content("open a layer"))
        })
        .await
    }
}

/// Manifests that are kept were checked when they came.
fn archive_layer(manifest: &[u8]) -> Option<Digest> {
    let manifest: Manifest = serde_json::from_slice(manifest).ok()?;
    let [layer] = manifest.layers.as_slice() else {
        return None;
    };
    let annotations = manifest.annotations.unwrap_or_default();
    let told = ANNOTATIONS
        .iter()
        .any(|name| annotations.contains_key(*name));
    told.then(|| Digest::parse(&layer.digest).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_image_is_a_checkpoint_by_its_annotation_and_single_layer() {
        let digest = |byte: &str| format!("sha256:{}", byte.repeat(32));
        let layers = [digest("0a"), digest("0b")].map(|digest| json!({ "digest": digest }));
        let found = |annotation: &str, count: usize| {
            let manifest = json!({
                "annotations": { annotation: "main" }, "layers": layers[..count],
            });
            archive_layer(manifest.to_string().as_bytes()).map(|found| found.to_string())
        };
        for annotation in ANNOTATIONS {
            assert_eq!(found(annotation, 1), Some(digest("0a")));
            assert_eq!(found(annotation, 2), None);
            assert_eq!(found(annotation, 0), None);
        }
        assert_eq!(found("org.opencontainers.image.title", 1), None);
    }
}
