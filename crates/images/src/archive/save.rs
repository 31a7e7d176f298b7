//! From images to an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use berth_metadata::schema::{AttestationRecord, ImageRecord};
use berth_names::{Digest, ImageRef};
use berth_registry::media_type::OCI_INDEX;
use bytes::Bytes;
use serde_json::{Value, json};

use super::contents::blob_path;
use super::{NAME, REF_NAME};
use crate::attest::{self, Subject};
use crate::images::{Shared, blocking};
use crate::index::{self, Entry};
use crate::manifest::{self, MAX_MANIFEST};
use crate::platform::Platform;
use crate::{Error, Image, Images, Result, pull};

/// An image for an archive.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub image: Arc<Image>,
    /// The names that it shall have there.
    pub names: Vec<ImageRef>,
}

/// An image on its way into an archive.
pub(crate) struct Member {
    pub id: Digest,
    pub manifest: Digest,
    pub platform: Platform,
    pub said: Vec<AttestationRecord>,
}

impl Images {
    /// Writes an archive with these images, and with what is said of them where `is_attested`: not
    /// every tool reads such archives. `sink` is written to by a thread of its own.
    ///
    /// # Errors
    /// If an image was removed meanwhile, or `sink` fails.
    pub async fn save(
        &self,
        chosen: Vec<Chosen>,
        is_attested: bool,
        sink: impl Write + Send + 'static,
    ) -> Result<()> {
        let mut holds = Vec::new();
        let mut records = Vec::new();
        for Chosen { image, names } in chosen {
            let catalog = self.shared.catalog();
            let Some(record) = catalog.record(&image.id) else {
                return Err(gone(&image.id));
            };
            holds.push(self.shared.holds.hold(pull::items(record)).await);
            let mut member = self.member(&image, record);
            if !is_attested {
                member.said.clear();
            }
            records.push((member, names));
        }
        let shared = Arc::clone(&self.shared);
        blocking("write an archive", move || {
            let _holds = holds;
            let mut archive = Archive::new(shared, sink);
            for (member, names) in &records {
                archive.image(member, names)?;
            }
            archive.finish()
        })
        .await
    }

    pub(crate) fn member(&self, image: &Image, record: &ImageRecord) -> Member {
        Member {
            id: image.id.clone(),
            manifest: record.manifest.clone(),
            platform: self.platform_of(image),
            said: record.attestations.clone(),
        }
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
    pub(crate) fn index(&mut self, images: &[Member], names: &[ImageRef]) -> Result<()> {
        let (mut entries, mut said) = (Vec::new(), Vec::new());
        for member in images {
            let (_, entry) = self.blobs(member)?;
            said.extend(self.said(member, &entry, names)?);
            entries.push(entry);
        }
        entries.extend(said);
        let (digest, size) = self.put_index(&entries)?;
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
                    "size": size,
                    "annotations": annotations,
                })
            }));
        Ok(())
    }

    fn put_index(&mut self, entries: &[Entry]) -> Result<(Digest, u64)> {
        let bytes = index::document(entries);
        let (digest, size) = (Digest::sha256_of(&bytes), bytes.len() as u64);
        if self.written.insert(digest.clone()) {
            self.member(&blob_path(&digest), size, &bytes[..])?;
        }
        Ok((digest, size))
    }

    /// Puts what is said of an image in; none where nothing is.
    fn said(
        &mut self,
        member: &Member,
        entry: &Entry,
        names: &[ImageRef],
    ) -> Result<Option<Entry>> {
        if member.said.is_empty() {
            return Ok(None);
        }
        let said = attest::read(&self.shared.content, &member.said)?;
        let attested = attest::attested(&Subject { entry, names }, &said);
        let about = attested.entry(entry);
        for blob in attested.blobs.into_iter().chain([attested.manifest]) {
            if self.written.insert(blob.digest.clone()) {
                let size = blob.bytes.len() as u64;
                self.member(&blob_path(&blob.digest), size, &blob.bytes[..])?;
            }
        }
        Ok(Some(about))
    }

    /// What an image is made of: its layers, and its manifest.
    fn blobs(&mut self, member: &Member) -> Result<(Vec<Digest>, Entry)> {
        let Member { id, manifest, .. } = member;
        let content = self.shared.content.clone();
        let read = content.read(manifest, MAX_MANIFEST);
        let bytes = read.map_err(Error::content("read a manifest"))?;
        let parsed = manifest::manifest(manifest, "", &bytes)?;
        let layers: Vec<Digest> = parsed.layers.into_iter().map(|l| l.digest).collect();
        for blob in layers.iter().chain([id, manifest]) {
            self.blob(blob)?;
        }
        let entry = Entry {
            media_type: manifest::media_type(&bytes),
            digest: manifest.clone(),
            size: bytes.len() as u64,
            platform: member.platform.clone(),
            about: None,
        };
        Ok((layers, entry))
    }

    fn image(&mut self, member: &Member, names: &[ImageRef]) -> Result<()> {
        let (layers, entry) = self.blobs(member)?;
        let id = &member.id;
        // With what is said of it, an index of both is what has the names.
        let (media_type, digest, size) = match self.said(member, &entry, names)? {
            None => (entry.media_type, entry.digest, entry.size),
            Some(said) => {
                let (digest, size) = self.put_index(&[entry, said])?;
                (OCI_INDEX.to_owned(), digest, size)
            }
        };
        let descriptor = |annotations: Value| {
            json!({
                "mediaType": media_type,
                "digest": digest,
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
