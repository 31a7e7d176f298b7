//! From images to an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use berth_names::{Digest, ImageRef};
use berth_registry::media_type::OCI_INDEX;
use bytes::Bytes;
use serde_json::{Value, json};

use super::contents::blob_path;
use super::{NAME, REF_NAME};
use crate::images::{Shared, blocking};
use crate::manifest::{self, MAX_MANIFEST};
use crate::platform::Platform;
use crate::{Error, Image, Images, Result, index, pull};

/// An image for an archive.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub image: Arc<Image>,
    /// The names that it shall have there.
    pub names: Vec<ImageRef>,
}

impl Images {
    /// Writes an archive with these images. `sink` is written to by a thread of its own.
    ///
    /// # Errors
    /// If an image was removed meanwhile, or `sink` fails.
    pub async fn save(&self, chosen: Vec<Chosen>, sink: impl Write + Send + 'static) -> Result<()> {
        let mut holds = Vec::new();
        let mut records = Vec::new();
        for Chosen { image, names } in chosen {
            let catalog = self.shared.catalog();
            let Some(record) = catalog.record(&image.id) else {
                return Err(gone(&image.id));
            };
            holds.push(self.shared.holds.hold(pull::items(record)).await);
            records.push((image.id.clone(), record.manifest.clone(), names));
        }
        let shared = Arc::clone(&self.shared);
        blocking("write an archive", move || {
            let _holds = holds;
            let mut archive = Archive::new(shared, sink);
            for (id, manifest, names) in &records {
                archive.image(id, manifest, names)?;
            }
            archive.finish()
        })
        .await
    }
}

pub(crate) fn gone(id: &Digest) -> Error {
    Error::invalid("image", id, "layers", "it was removed meanwhile")
}

pub(crate) struct Archive<W: Write> {
    shared: Arc<Shared>,
    tar: tar::Builder<W>,
    written: BTreeSet<Digest>,
    index: Vec<Value>,
    entries: Vec<Value>,
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(shared: Arc<Shared>, sink: W) -> Self {
        Self {
            shared,
            tar: tar::Builder::new(sink),
            written: BTreeSet::new(),
            index: Vec::new(),
            entries: Vec::new(),
            repositories: BTreeMap::new(),
        }
    }

    /// Images as one, of which each machine takes its own: Docker's form does not have that.
    pub(crate) fn index(
        &mut self,
        images: &[(Digest, Digest, Platform)],
        names: &[ImageRef],
    ) -> Result<()> {
        let mut entries = Vec::new();
        for (id, manifest, platform) in images {
            let (media_type, size) = self.blobs(id, manifest)?.1;
            entries.push(index::Entry {
                media_type,
                digest: manifest.clone(),
                size,
                platform: platform.clone(),
            });
        }
        let bytes = index::document(&entries);
        let digest = Digest::sha256_of(&bytes);
        if self.written.insert(digest.clone()) {
            self.member(&blob_path(&digest), bytes.len() as u64, &bytes[..])?;
        }
        let annotations = names.iter().map(annotations);
        let mut annotations: Vec<Value> = annotations.collect();
        if annotations.is_empty() {
            annotations.push(json!({}));
        }
        self.index
            .extend(annotations.into_iter().map(|annotations| {
                json!({
                    "mediaType": OCI_INDEX,
                    "digest": digest,
                    "size": bytes.len(),
                    "annotations": annotations,
                })
            }));
        Ok(())
    }

    /// What an image is made of: its layers, and type and size of its manifest.
    fn blobs(&mut self, id: &Digest, manifest: &Digest) -> Result<(Vec<Digest>, (String, u64))> {
        let content = self.shared.content.clone();
        let read = content.read(manifest, MAX_MANIFEST);
        let bytes = read.map_err(Error::content("read a manifest"))?;
        let parsed = manifest::manifest(manifest, "", &bytes)?;
        let layers: Vec<Digest> = parsed.layers.into_iter().map(|l| l.digest).collect();
        for blob in layers.iter().chain([id, manifest]) {
            self.blob(blob)?;
        }
        let kind = (manifest::media_type(&bytes), bytes.len() as u64);
        Ok((layers, kind))
    }

    fn image(&mut self, id: &Digest, manifest: &Digest, names: &[ImageRef]) -> Result<()> {
        let (layers, (media_type, size)) = self.blobs(id, manifest)?;
        let descriptor = |annotations: Value| {
            json!({
                "mediaType": media_type,
                "digest": manifest,
                "size": size,
                "annotations": annotations,
            })
        };
        for name in names {
            let tag = name.tag().unwrap_or_default();
            self.index.push(descriptor(annotations(name)));
            let top = layers.last().unwrap_or(id).hex().to_owned();
            let tags = self.repositories.entry(name.familiar_name()).or_default();
            tags.insert(tag.to_owned(), top);
        }
        if names.is_empty() {
            self.index.push(descriptor(json!({})));
        }
        self.entries.push(json!({
            "Config": blob_path(id),
            "RepoTags": names.iter().map(ImageRef::familiar).collect::<Vec<_>>(),
            "Layers": layers.iter().map(blob_path).collect::<Vec<_>>(),
        }));
        Ok(())
    }

    fn blob(&mut self, digest: &Digest) -> Result<()> {
        if !self.written.insert(digest.clone()) {
            return Ok(());
        }
        let failed = Error::content("read a blob for an archive");
        let file = self.shared.content.open_blob(digest).map_err(failed)?;
        let size = file.metadata().map_err(writing)?.len();
        self.member(&blob_path(digest), size, file)
    }

    fn document(&mut self, name: &str, value: &Value) -> Result<()> {
        let bytes = Bytes::from(value.to_string());
        self.member(name, bytes.len() as u64, &bytes[..])
    }

    /// Without owners and times: the same images make the same archive.
    fn member(&mut self, name: &str, size: u64, content: impl std::io::Read) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        let added = self.tar.append_data(&mut header, name, content);
        added.map_err(writing)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": self.index,
        });
        let (entries, repositories) = (json!(self.entries), json!(self.repositories));
        self.document("index.json", &index)?;
        if !self.entries.is_empty() {
            self.document("manifest.json", &entries)?;
        }
        self.document("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }))?;
        if repositories.as_object().is_some_and(|all| !all.is_empty()) {
            self.document("repositories", &repositories)?;
        }
        let mut sink = self.tar.into_inner().map_err(writing)?;
        sink.flush().map_err(writing)
    }
}

/// The name that an image has in an archive.
fn annotations(name: &ImageRef) -> Value {
    json!({ NAME: name.to_string(), REF_NAME: name.tag().unwrap_or_default() })
}

fn writing(source: std::io::Error) -> Error {
    Error::Archive {
        operation: "writing an archive",
        source,
    }
}
