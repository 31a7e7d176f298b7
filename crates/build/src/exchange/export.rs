//! From what a build went through to a cache elsewhere.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Seek, Write};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_images::{Images, StoredLayer};
use berth_names::{Digest, ImageRef};
use berth_registry::media_type::{OCI_INDEX, OCI_MANIFEST};
use berth_registry::{Credentials, Upload};
use bytes::Bytes;
use serde_json::{Value, json};

use super::document::{self, Layer, MEDIA_TYPE, Written};
use super::layout::Writing;
use super::trace::{Plan, Trace};
use super::{CacheTarget, CacheTo};
use crate::error::{Error, Result, blocking};

/// Where blobs go.
enum Sink<'a> {
    Registry(&'a Images, &'a ImageRef, Credentials),
    Layout(Option<Writing>, &'a str),
}

/// Writes a cache to where `target` says. A layout is returned as an archive.
///
/// # Errors
/// If a layer was removed meanwhile, or a registry does not take it.
pub(crate) async fn export(
    images: &Images,
    plan: &Plan,
    target: &CacheTarget,
    credentials: &(dyn Fn(&ImageRef) -> Credentials + Send + Sync),
) -> Result<Option<File>> {
    let mut sink = match &target.to {
        CacheTo::Inline => return Ok(None),
        CacheTo::Registry(reference) => Sink::Registry(images, reference, credentials(reference)),
        CacheTo::Layout(tag) => Sink::Layout(Some(Writing::new(images.spool().await?)), tag),
    };
    let mut written = Vec::new();
    for planned in &plan.layers {
        let stored = topmost(images, &planned.image, target).await?;
        written.push(Written {
            media_type: stored.media_type.clone(),
            layer: Layer {
                blob: stored.digest.clone(),
                size: stored.size,
                diff_id: stored.diff_id.clone(),
            },
        });
        sink.blob(stored.digest, stored.size, stored.file).await?;
    }
    let document = document::write(plan, &written);
    let (media_type, manifest) = manifest(plan, &written, &document, target.is_image_manifest);
    sink.document(images, document).await?;
    sink.finish(media_type, manifest).await
}

/// The layer that an image ends with.
async fn topmost(images: &Images, id: &Digest, target: &CacheTarget) -> Result<StoredLayer> {
    let image = images.get(&id.to_string());
    let gone = || Error::invalid(format!("image {id} was removed during the build"));
    let image = image.ok_or_else(gone)?;
    let number = image.layers.len().checked_sub(1).ok_or_else(gone)?;
    Ok(images.stored_layer(&image, number, target.packing).await?)
}

/// The records of the steps that lead to `last`, for the config of their image.
pub(crate) fn inline(images: &Images, trace: &Trace, last: &Digest) -> String {
    let plan = trace.plan(last, false);
    let place = |layer: usize| {
        let planned = plan.layers.get(layer)?;
        let image = images.get(&planned.image.to_string())?;
        image.layers.len().checked_sub(1)
    };
    STANDARD.encode(document::write_inline(&plan, place))
}

fn manifest(
    plan: &Plan,
    written: &[Written],
    document: &[u8],
    is_image_manifest: bool,
) -> (&'static str, Vec<u8>) {
    let config = json!({
        "mediaType": MEDIA_TYPE,
        "digest": Digest::sha256_of(document),
        "size": document.len(),
    });
    let mut named = HashSet::new();
    let pairs = plan.layers.iter().zip(written);
    let pairs = pairs.filter(|(_, written)| named.insert(&written.layer.blob));
    let mut layers: Vec<Value> = pairs
        .map(|(planned, Written { media_type, layer })| {
            json!({
                "mediaType": media_type,
                "digest": layer.blob,
                "size": layer.size,
                "annotations": {
                    "buildkit/createdat": planned.created,
                    "containerd.io/uncompressed": layer.diff_id,
                },
            })
        })
        .collect();
    let (media_type, manifest) = match is_image_manifest {
        true => {
            let fields = json!({ "config": config, "layers": layers });
            (OCI_MANIFEST, fields)
        }
        false => {
            layers.push(config);
            (OCI_INDEX, json!({ "manifests": layers }))
        }
    };
    let mut manifest = manifest;
    manifest["schemaVersion"] = 2.into();
    manifest["mediaType"] = media_type.into();
    (media_type, manifest.to_string().into_bytes())
}

impl Sink<'_> {
    async fn blob(&mut self, digest: Digest, size: u64, file: File) -> Result<()> {
        match self {
            Self::Registry(images, reference, credentials) => {
                let upload = Upload {
                    digest: &digest,
                    size,
                    file,
                    mount_from: None,
                    sent: Arc::default(),
                };
                let registry = images.registry();
                let pushed = registry.push_blob(reference, upload, credentials).await;
                pushed.map(drop).map_err(sending(reference))
            }
            Self::Layout(writing, _) => {
                let Some(mut taken) = writing.take() else {
                    return Err(Error::CutShort("writing a layout"));
                };
                let written = blocking("writing a layout", move || {
                    taken.blob(&digest, size, file)?;
                    Ok(taken)
                });
                *writing = Some(written.await?);
                Ok(())
            }
        }
    }

    async fn document(&mut self, images: &Images, bytes: Vec<u8>) -> Result<()> {
        let (digest, size) = (Digest::sha256_of(&bytes), bytes.len() as u64);
        let mut file = images.spool().await?;
        let file = blocking("writing a cache", move || {
            let written = file.write_all(&bytes).and_then(|()| file.rewind());
            written.map(|()| file).map_err(Error::Layer)
        });
        self.blob(digest, size, file.await?).await
    }

    async fn finish(self, media_type: &'static str, manifest: Vec<u8>) -> Result<Option<File>> {
        match self {
            Self::Registry(images, reference, credentials) => {
                let registry = images.registry();
                let manifest = Bytes::from(manifest);
                let pushed = registry.push_manifest(reference, media_type, manifest, &credentials);
                pushed.await.map_err(sending(reference))?;
                Ok(None)
            }
            Self::Layout(writing, tag) => {
                let Some(writing) = writing else {
                    return Err(Error::CutShort("writing a layout"));
                };
                let tag = tag.to_owned();
                let finish = move || writing.finish(media_type, &manifest, &tag);
                blocking("writing a layout", finish).await.map(Some)
            }
        }
    }
}

fn sending(reference: &ImageRef) -> impl Fn(berth_registry::Error) -> Error {
    let reference = reference.familiar();
    move |source| Error::CacheExport {
        reference: reference.clone(),
        source: Box::new(source),
    }
}
