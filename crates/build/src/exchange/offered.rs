//! What the manifest of a cache offers: a document with its layers, or an image that may have records
//! in its config. Pure.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_images::Platform;
use berth_names::Digest;
use serde::Deserialize;

use super::document::{FIELD, LARGEST, Layer, MEDIA_TYPE};
use crate::error::{Error, Result};

const MOST: usize = 20_000;
const IMAGE_CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// A blob that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    pub size: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Offered {
    Cache {
        document: Blob,
        /// Sizes of blobs.
        layers: HashMap<Digest, u64>,
    },
    Image {
        config: Blob,
        layers: Vec<Blob>,
    },
    /// A manifest of an index: of this platform, or whatever the index of a layout names.
    Manifest(Blob),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    config: Option<Raw>,
    #[serde(default)]
    layers: Vec<Raw>,
    #[serde(default)]
    manifests: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

impl Raw {
    fn blob(&self) -> Result<Blob> {
        let digest = Digest::parse(&self.digest);
        let digest = digest.map_err(|error| Error::invalid(format!("its manifest: {error}")))?;
        Ok(Blob {
            digest,
            size: self.size,
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Document> {
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid(format!("its manifest: {error}")))?;
    match document.layers.len().max(document.manifests.len()) > MOST {
        true => Err(Error::invalid(format!(
            "its manifest names more than {MOST} blobs"
        ))),
        false => Ok(document),
    }
}

/// What a manifest or an index is.
///
/// # Errors
/// If it is neither, or has nothing for `platform`.
pub fn read(bytes: &[u8], platform: &Platform) -> Result<Offered> {
    let document = parse(bytes)?;
    if let Some(config) = &document.config {
        return match config.media_type.as_str() {
            MEDIA_TYPE => cache(config, document.layers.iter()),
            kind if IMAGE_CONFIGS.contains(&kind) => Ok(Offered::Image {
                config: small(config)?,
                layers: document
                    .layers
                    .iter()
                    .map(Raw::blob)
                    .collect::<Result<_>>()?,
            }),
            other => Err(Error::invalid(format!(
                "{other:?} is neither a cache nor an image"
            ))),
        };
    }
    let is_document = |raw: &&Raw| raw.media_type == MEDIA_TYPE;
    if let Some(config) = document.manifests.iter().find(is_document) {
        let layers = document.manifests.iter().filter(|raw| !is_document(raw));
        return cache(config, layers);
    }
    let suits = |raw: &&Raw| {
        let own = raw.platform.as_ref();
        own.is_some_and(|own| own.os == platform.os && own.architecture == platform.architecture)
    };
    match document.manifests.iter().find(suits) {
        Some(raw) => Ok(Offered::Manifest(small(raw)?)),
        None => Err(Error::invalid(format!(
            "it has no cache, and no image for {platform}"
        ))),
    }
}

/// The manifest that the index of a layout has under a tag or a digest.
///
/// # Errors
/// If there is none.
pub fn tagged(bytes: &[u8], tag: &str) -> Result<Blob> {
    const REF_NAME: &str = "org.opencontainers.image.ref.name";
    let document = parse(bytes)?;
    let of = |raw: &&Raw| {
        let name = raw.annotations.get(REF_NAME);
        raw.digest == tag || name.is_some_and(|name| name == tag)
    };
    match document.manifests.iter().rev().find(of) {
        Some(raw) => small(raw),
        None => Err(Error::invalid(format!("its index has no {tag}"))),
    }
}

fn cache<'r>(config: &Raw, layers: impl Iterator<Item = &'r Raw>) -> Result<Offered> {
    let layers = layers.map(|raw| raw.blob().map(|blob| (blob.digest, blob.size)));
    Ok(Offered::Cache {
        document: small(config)?,
        layers: layers.collect::<Result<_>>()?,
    })
}

/// What is read into memory.
fn small(raw: &Raw) -> Result<Blob> {
    let blob = raw.blob()?;
    match blob.size > LARGEST {
        true => Err(Error::invalid(format!(
            "{} has {} bytes, which are more than {LARGEST}",
            blob.digest, blob.size
        ))),
        false => Ok(blob),
    }
}

/// The records that an image's config has, and the layers that they speak of.
///
/// # Errors
/// If there are none, or the config is not that of these layers.
pub fn inline(config: &[u8], layers: &[Blob]) -> Result<(Vec<u8>, Vec<Layer>)> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: Rootfs,
        #[serde(rename = "moby.buildkit.cache.v0")]
        records: Option<String>,
    }
    #[derive(Deserialize)]
    struct Rootfs {
        #[serde(default)]
        diff_ids: Vec<Digest>,
    }
    let config: Config = serde_json::from_slice(config)
        .map_err(|error| Error::invalid(format!("its config: {error}")))?;
    let Some(records) = config.records else {
        return Err(Error::invalid("the image has no cache in its config"));
    };
    let records = STANDARD.decode(records);
    let records = records.map_err(|error| Error::invalid(format!("{FIELD}: {error}")))?;
    if config.rootfs.diff_ids.len() != layers.len() {
        return Err(Error::invalid(
            "its config has other layers than its manifest",
        ));
    }
    let layers = layers.iter().zip(config.rootfs.diff_ids);
    let layers = layers.map(|(blob, diff_id)| Layer {
        blob: blob.digest.clone(),
        size: blob.size,
        diff_id,
    });
    Ok((records, layers.collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    fn of(value: &Value) -> Result<Offered> {
        read(value.to_string().as_bytes(), &Platform::host())
    }

    #[test]
    fn caches_and_images_are_told_apart() {
        let entry =
            |kind: &str, digest: &str| json!({ "mediaType": kind, "digest": digest, "size": 7 });
        let (config, layer) = (entry(MEDIA_TYPE, A), entry(LAYER, B));
        let by_manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        let by_index = json!({ "schemaVersion": 2, "manifests": [layer, config] });
        for value in [by_manifest, by_index] {
            let Offered::Cache { document, layers } = of(&value).unwrap() else {
                panic!("{value}");
            };
            assert_eq!(document.digest.as_str(), A);
            assert_eq!(layers, HashMap::from([(B.parse().unwrap(), 7)]));
        }
        let image = json!({ "config": entry(IMAGE_CONFIGS[0], A), "layers": [layer] });
        assert!(matches!(of(&image).unwrap(), Offered::Image { .. }));
        let host = Platform::host();
        let mut mine = entry("application/vnd.oci.image.manifest.v1+json", B);
        mine["platform"] = json!({ "os": host.os, "architecture": host.architecture });
        let index = json!({ "manifests": [entry("x", A), mine] });
        let blob = Blob {
            digest: B.parse().unwrap(),
            size: 7,
        };
        assert_eq!(of(&index).unwrap(), Offered::Manifest(blob));
    }

    #[test]
    fn what_is_no_cache_is_refused() {
        let huge = json!({ "mediaType": MEDIA_TYPE, "digest": A, "size": u64::MAX });
        let path = json!({ "mediaType": MEDIA_TYPE, "digest": "sha256:../../x", "size": 1 });
        let many: Vec<Value> = vec![json!({ "digest": A, "size": 1 }); MOST + 1];
        for value in [
            json!(null),
            json!({}),
            json!({ "config": huge, "layers": [] }),
            json!({ "config": path, "layers": [] }),
            json!({ "config": { "mediaType": "x/y", "digest": A, "size": 1 } }),
            json!({ "manifests": [] }),
            json!({ "manifests": many }),
        ] {
            assert!(of(&value).is_err(), "{:.80}", value.to_string());
        }
    }

    #[test]
    fn a_config_that_lies_about_its_layers_is_refused() {
        let blob = Blob {
            digest: A.parse().unwrap(),
            size: 7,
        };
        let config =
            |value: Value| inline(value.to_string().as_bytes(), std::slice::from_ref(&blob));
        let good = json!({ "rootfs": { "diff_ids": [B] }, FIELD: STANDARD.encode("[]") });
        let (records, layers) = config(good).unwrap();
        assert_eq!((records.as_slice(), layers.len()), (&b"[]"[..], 1));
        for bad in [
            json!({ "rootfs": { "diff_ids": [B] } }),
            json!({ "rootfs": { "diff_ids": [] }, FIELD: "W10=" }),
            json!({ "rootfs": { "diff_ids": [B, B] }, FIELD: "W10=" }),
            json!({ "rootfs": { "diff_ids": [B] }, FIELD: "%" }),
            json!({ "rootfs": { "diff_ids": ["x"] }, FIELD: "W10=" }),
        ] {
            assert!(config(bad.clone()).is_err(), "{bad}");
        }
    }
}
