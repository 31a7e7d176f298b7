//! Pushes: what an image is made of, to a registry that lacks it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_metadata::schema::{REFERENCES, ReferenceRecord};
use berth_names::{Digest, ImageRef};
use berth_registry::{Credentials, Pushed, Upload};
use bytes::Bytes;
use flate2::write::GzEncoder;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;

use crate::images::{Shared, blocking};
use crate::manifest::{self, Descriptor, MAX_CONFIG, MAX_MANIFEST};
use crate::{Error, Images, Result, catalog, pull};

/// Layers that are sent at once.
const AT_ONCE: usize = 4;
const BUFFER: usize = 256 << 10;
/// What layers are compressed with, of gzip's nine: most of the gain for a part of the time.
const LEVEL: u32 = 5;
const PLAIN: [&str; 2] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
];

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

/// A layer as it is sent.
struct Sent {
    descriptor: Descriptor,
    file: File,
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
        let origin = read(shared, &record.manifest, MAX_MANIFEST).await?;
        let parsed = manifest::manifest(&record.manifest, "", &origin)?;
        let layers = record.layers.iter().map(|layer| Watched {
            diff_id: layer.diff_id.clone(),
            size: layer.size,
            sent: Arc::default(),
            began: false,
            done: None,
        });
        *watch.0.lock() = layers.collect();

        let push = Push {
            shared,
            reference,
            credentials,
            watch,
        };
        let layers = parsed.layers.iter().cloned().enumerate();
        let sent: Vec<Descriptor> = futures::stream::iter(layers)
            .map(|(number, layer)| push.layer(number, layer))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        push.config(&parsed.config).await?;
        let changed = sent
            .iter()
            .zip(&parsed.layers)
            .any(|(a, b)| a.digest != b.digest);
        let (media_type, bytes) = match changed {
            false => (manifest::media_type(&origin), origin),
            true => (
                manifest::media_type(&origin),
                with_layers(&record.manifest, &origin, &sent)?,
            ),
        };
        let size = bytes.len() as u64;
        let put = shared
            .registry
            .push_manifest(reference, &media_type, bytes, credentials);
        let digest = put.await.map_err(|error| push.failed(error))?;
        remember(shared, reference, id, digest.clone()).await?;
        Ok(PushedImage { digest, size })
    }
}

struct Push<'a> {
    shared: &'a Arc<Shared>,
    reference: &'a ImageRef,
    credentials: &'a Credentials,
    watch: &'a PushWatch,
}

impl Push<'_> {
    async fn layer(&self, number: usize, layer: Descriptor) -> Result<Descriptor> {
        let from = self.elsewhere(&layer.digest);
        let Sent { descriptor, file } = self.prepare(layer).await?;
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

    async fn config(&self, config: &Descriptor) -> Result<()> {
        let upload = Upload {
            digest: &config.digest,
            size: config.size,
            file: open(self.shared, &config.digest).await?,
            mount_from: None,
            sent: Arc::default(),
        };
        let registry = &self.shared.registry;
        let pushed = registry.push_blob(self.reference, upload, self.credentials);
        pushed.await.map(drop).map_err(|error| self.failed(error))
    }

    /// Opens a layer; one that is stored plain is compressed.
    async fn prepare(&self, layer: Descriptor) -> Result<Sent> {
        let file = open(self.shared, &layer.digest).await?;
        if !PLAIN.contains(&layer.media_type.as_str()) {
            return Ok(Sent {
                descriptor: layer,
                file,
            });
        }
        let spool = self.shared.content.spool();
        let spool = spool.map_err(Error::content("make a file for a layer"))?;
        blocking("compress a layer", move || {
            compress(file, spool).map_err(|source| Error::Archive {
                operation: "compressing a layer",
                source,
            })
        })
        .await
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

    fn failed(&self, source: berth_registry::Error) -> Error {
        Error::Push {
            reference: self.reference.to_string(),
            source: Box::new(source),
        }
    }
}

/// gzip, without a time or a name in it: the same layer gives the same bytes.
fn compress(mut from: File, to: File) -> std::io::Result<Sent> {
    let mut hashing = Hashing {
        file: to,
        hasher: berth_content::Hasher::new(berth_names::Algorithm::Sha256),
        size: 0,
    };
    let mut encoder = GzEncoder::new(&mut hashing, flate2::Compression::new(LEVEL));
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            count => encoder.write_all(buffer.get(..count).unwrap_or_default())?,
        }
    }
    encoder.finish()?;
    let Hashing {
        mut file,
        hasher,
        size,
    } = hashing;
    file.rewind()?;
    let descriptor = Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        digest: hasher.finish(),
        size,
    };
    Ok(Sent { descriptor, file })
}

struct Hashing {
    file: File,
    hasher: berth_content::Hasher,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
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

async fn read(shared: &Arc<Shared>, digest: &Digest, limit: u64) -> Result<Bytes> {
    let (content, digest) = (shared.content.clone(), digest.clone());
    debug_assert!(limit <= MAX_CONFIG.max(MAX_MANIFEST));
    blocking("read a manifest", move || {
        let read = content.read(&digest, limit);
        read.map_err(Error::content("read a manifest"))
    })
    .await
}

async fn open(shared: &Arc<Shared>, digest: &Digest) -> Result<File> {
    let (content, digest) = (shared.content.clone(), digest.clone());
    blocking("open a blob", move || {
        let opened = content.open_blob(&digest);
        opened.map_err(Error::content("open a blob to be pushed"))
    })
    .await
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
