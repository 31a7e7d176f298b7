//! Pushes: what an image is made of, to a registry that lacks it.

use std::collections::BTreeMap;
use std::io::{Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_metadata::schema::{ImageRecord, REFERENCES, ReferenceRecord};
use berth_names::{Digest, ImageRef};
use berth_registry::media_type::{OCI_INDEX, OCI_MANIFEST};
use berth_registry::{Credentials, Pushed, Upload};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;

use crate::attest::{self, Subject};
use crate::images::{Shared, blocking};
use crate::index::{self, Entry};
use crate::manifest::{self, Descriptor};
use crate::platform::Platform;
use crate::stored::{self, Packing, Sent};
use crate::{Error, Images, Result, catalog, pull};

/// Layers that are sent at once.
const AT_ONCE: usize = 4;

/// How far one layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushPhase {
    Preparing,
    Pushing { sent: u64, size: u64 },
    Done(Pushed, Option<String>),
}

#[derive(Debug, Clone)]
pub struct PushProgress {
    pub diff_id: Digest,
    pub phase: PushPhase,
}

/// The layers of a push. Clones look at the same.
#[derive(Clone, Default)]
pub struct PushWatch(Arc<Mutex<Vec<Watched>>>);

struct Watched {
    diff_id: Digest,
    size: u64,
    sent: Arc<AtomicU64>,
    began: bool,
    done: Option<(Pushed, Option<String>)>,
}

impl PushWatch {
    pub fn layers(&self) -> Vec<PushProgress> {
        let layers = self.0.lock();
        let shown = layers.iter().map(|layer| PushProgress {
            diff_id: layer.diff_id.clone(),
            phase: match &layer.done {
                Some((pushed, from)) => PushPhase::Done(*pushed, from.clone()),
                None if layer.began => PushPhase::Pushing {
                    sent: layer.sent.load(Ordering::Relaxed),
                    size: layer.size,
                },
                None => PushPhase::Preparing,
            },
        });
        shown.collect()
    }

    /// Further layers; the number of the first of them.
    fn add(&self, record: &ImageRecord) -> usize {
        let mut all = self.0.lock();
        let first = all.len();
        all.extend(record.layers.iter().map(|layer| Watched {
            diff_id: layer.diff_id.clone(),
            size: layer.size,
            sent: Arc::default(),
            began: false,
            done: None,
        }));
        first
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut Watched)) {
        if let Some(layer) = self.0.lock().get_mut(number) {
            change(layer);
        }
    }
}

/// What the registry has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedImage {
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
}

impl Images {
    /// Pushes what a reference means here, to where its name says.
    ///
    /// # Errors
    /// If there is no such image here, or the registry does not take it.
    pub async fn push(
        &self,
        reference: &ImageRef,
        credentials: &Credentials,
        watch: &PushWatch,
    ) -> Result<PushedImage> {
        let shared = &self.shared;
        let missing = || Error::Missing {
            reference: reference.familiar(),
        };
        let catalog = shared.catalog();
        let (_, known) = catalog.reference(reference).ok_or_else(missing)?;
        let record = catalog.record(&known.image).ok_or_else(missing)?;
        let _hold = shared.holds.hold(pull::items(record)).await;
        let id = known.image.clone();
        let push = Push {
            shared,
            reference,
            credentials,
            watch,
        };
        let (media_type, bytes) = push.content(record).await?;
        let pushed = match record.attestations.is_empty() {
            true => push.manifest(reference, &media_type, bytes).await?,
            false => {
                let image = self.get(&id.to_string()).ok_or_else(missing)?;
                let platform = self.platform_of(&image);
                let entry = push.entry(media_type, bytes, platform).await?;
                let mut entries = vec![entry.clone()];
                entries.extend(push.said(record, &entry).await?);
                let bytes = index::document(&entries);
                push.manifest(reference, OCI_INDEX, bytes).await?
            }
        };
        remember(shared, reference, id, pushed.digest.clone()).await?;
        Ok(pushed)
    }
}

pub(crate) struct Push<'a> {
    pub shared: &'a Arc<Shared>,
    pub reference: &'a ImageRef,
    pub credentials: &'a Credentials,
    pub watch: &'a PushWatch,
}

impl Push<'_> {
    /// Sends layers and config; the manifest, as it is of what was sent, is left to be put.
    pub(crate) async fn content(&self, record: &ImageRecord) -> Result<(String, Bytes)> {
        let origin = stored::read(self.shared, &record.manifest).await?;
        let parsed = manifest::manifest(&record.manifest, "", &origin)?;
        let first = self.watch.add(record);
        let layers = parsed.layers.iter().cloned().enumerate();
        let sent: Vec<Descriptor> = futures::stream::iter(layers)
            .map(|(number, layer)| self.layer(first + number, layer))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        self.config(&parsed.config).await?;
        let mut pairs = sent.iter().zip(&parsed.layers);
        let changed = pairs.any(|(a, b)| a.digest != b.digest);
        let media_type = manifest::media_type(&origin);
        match changed {
            false => Ok((media_type, origin)),
            true => Ok((media_type, with_layers(&record.manifest, &origin, &sent)?)),
        }
    }

    async fn layer(&self, number: usize, layer: Descriptor) -> Result<Descriptor> {
        let from = self.elsewhere(&layer.digest);
        let Sent { descriptor, file } = stored::prepare(self.shared, layer, Packing::Gzip).await?;
        let mut sent = Arc::default();
        self.watch.change(number, |watched| {
            watched.size = descriptor.size;
            watched.began = true;
            sent = Arc::clone(&watched.sent);
        });
        let upload = Upload {
            digest: &descriptor.digest,
            size: descriptor.size,
            file,
            mount_from: from.as_deref(),
            sent,
        };
        let registry = &self.shared.registry;
        let pushed = registry.push_blob(self.reference, upload, self.credentials);
        let pushed = pushed.await.map_err(|error| self.failed(error))?;
        self.watch.change(number, |watched| {
            watched.done = Some((pushed, from.clone()))
        });
        Ok(descriptor)
    }

    pub(crate) async fn manifest(
        &self,
        reference: &ImageRef,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<PushedImage> {
        let size = bytes.len() as u64;
        let registry = &self.shared.registry;
        let put = registry.push_manifest(reference, media_type, bytes, self.credentials);
        let digest = put.await.map_err(|error| self.failed(error))?;
        Ok(PushedImage { digest, size })
    }

    /// Puts a manifest by its digest, for an index to name it.
    pub(crate) async fn entry(
        &self,
        media_type: String,
        bytes: Bytes,
        platform: Platform,
    ) -> Result<Entry> {
        let by_digest = self.reference.with_digest(Digest::sha256_of(&bytes));
        let PushedImage { digest, size } = self.manifest(&by_digest, &media_type, bytes).await?;
        Ok(Entry {
            media_type,
            digest,
            size,
            platform,
            about: None,
        })
    }

    /// Sends what is said of an image that is in the registry; none where nothing is.
    pub(crate) async fn said(&self, record: &ImageRecord, entry: &Entry) -> Result<Option<Entry>> {
        if record.attestations.is_empty() {
            return Ok(None);
        }
        let said = attest::said(self.shared, record).await?;
        let names = std::slice::from_ref(self.reference);
        let attested = attest::attested(&Subject { entry, names }, &said);
        let about = attested.entry(entry);
        for blob in attested.blobs {
            self.document(blob).await?;
        }
        let attest::Written { digest, bytes } = attested.manifest;
        let by_digest = self.reference.with_digest(digest);
        self.manifest(&by_digest, OCI_MANIFEST, bytes).await?;
        Ok(Some(about))
    }

    async fn document(&self, document: attest::Written) -> Result<()> {
        let attest::Written { digest, bytes } = document;
        let size = bytes.len() as u64;
        let content = self.shared.content.clone();
        let file = blocking("write a document", move || {
            let mut file = content
                .spool()
                .map_err(Error::content("make a file for a document"))?;
            let written = file.write_all(&bytes).and_then(|()| file.rewind());
            written.map_err(|source| Error::Archive {
                operation: "writing a document",
                source,
            })?;
            Ok(file)
        });
        let upload = Upload {
            digest: &digest,
            size,
            file: file.await?,
            mount_from: None,
            sent: Arc::default(),
        };
        let registry = &self.shared.registry;
        let pushed = registry.push_blob(self.reference, upload, self.credentials);
        pushed.await.map(drop).map_err(|error| self.failed(error))
    }

    async fn config(&self, config: &Descriptor) -> Result<()> {
        let upload = Upload {
            digest: &config.digest,
            size: config.size,
            file: stored::open(self.shared, &config.digest).await?,
            mount_from: None,
            sent: Arc::default(),
        };
        let registry = &self.shared.registry;
        let pushed = registry.push_blob(self.reference, upload, self.credentials);
        pushed.await.map(drop).map_err(|error| self.failed(error))
    }

    /// Another repository of the same registry that this node knows to have a blob.
    fn elsewhere(&self, digest: &Digest) -> Option<String> {
        let catalog = self.shared.catalog();
        catalog.repositories_with(digest).find_map(|name| {
            let same_host = name.domain() == self.reference.domain();
            let other = name.path() != self.reference.path();
            (same_host && other).then(|| name.path().to_owned())
        })
    }

    pub(crate) fn failed(&self, source: berth_registry::Error) -> Error {
        Error::Push {
            reference: self.reference.to_string(),
            source: Box::new(source),
        }
    }
}

/// The manifest with the layers as they were sent.
fn with_layers(digest: &Digest, manifest: &Bytes, layers: &[Descriptor]) -> Result<Bytes> {
    let mut document: BTreeMap<String, serde_json::Value> = serde_json::from_slice(manifest)
        .map_err(|error| Error::invalid("manifest", digest, "JSON", error.to_string()))?;
    let layers = layers.iter().map(|layer| {
        serde_json::json!({
            "mediaType": layer.media_type, "digest": layer.digest, "size": layer.size,
        })
    });
    document.insert("layers".to_owned(), layers.collect());
    let text = serde_json::to_vec(&document)
        .map_err(|error| Error::invalid("manifest", digest, "JSON", error.to_string()))?;
    Ok(text.into())
}

/// The image has a name by digest there from now on.
async fn remember(
    shared: &Arc<Shared>,
    reference: &ImageRef,
    image: Digest,
    target: Digest,
) -> Result<()> {
    let name = catalog::key(&reference.with_digest(target.clone()));
    shared
        .change(move |catalog, batch| {
            if catalog.record(&image).is_none() {
                return Ok((catalog.clone(), ()));
            }
            let reference = ReferenceRecord { image, target };
            batch.put(REFERENCES, &name, &reference)?;
            Ok((catalog.with_reference(name, reference), ()))
        })
        .await
}
