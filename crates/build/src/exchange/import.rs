//! From caches elsewhere to what a build may take from them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use berth_images::{Image, Images, Packing};
use berth_lifecycle::chain;
use berth_names::{Digest, ImageRef};
use berth_registry::Credentials;
use parking_lot::Mutex;
use sha2::Digest as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::CacheSource;
use super::document::{self, LARGEST, Layer, Step};
use super::layout::Layout;
use super::offered::{self, Blob, Offered};
use crate::error::{Error, Result, blocking};
use crate::transcript::Said;

/// Indexes may point to indexes, but no deeper.
const MAX_DEPTH: usize = 3;

/// What caches elsewhere know.
pub(crate) struct Imported {
    steps: HashMap<Digest, (usize, Step)>,
    origins: Vec<Origin>,
    /// Steps whose layers were found bad.
    useless: Mutex<HashSet<Digest>>,
    out: mpsc::Sender<Said>,
}

enum Origin {
    Registry {
        reference: ImageRef,
        credentials: Credentials,
    },
    /// An image of this machine, with the digests of its layers' archives.
    Here(Arc<Image>, Vec<Digest>),
    Layout(Arc<Layout>),
}

/// Reads what each source has; one that cannot be read is told of, and left out.
pub(crate) async fn import(
    images: &Images,
    sources: Vec<CacheSource>,
    credentials: &(dyn Fn(&ImageRef) -> Credentials + Send + Sync),
    out: mpsc::Sender<Said>,
    cancel: &CancellationToken,
) -> Result<Imported> {
    let mut imported = Imported {
        steps: HashMap::new(),
        origins: Vec::new(),
        useless: Mutex::default(),
        out,
    };
    for source in sources {
        let name = source.name();
        let loaded = tokio::select! {
            loaded = load(images, source, credentials) => loaded,
            () = cancel.cancelled() => return Err(Error::Cancelled),
        };
        match loaded {
            Ok((origin, steps)) => imported.add(origin, steps),
            Err(error) => {
                let problem = chain(&error);
                let text = format!("the cache {name} is not used: {problem}");
                imported.warn(text).await;
            }
        }
    }
    Ok(imported)
}

impl CacheSource {
    fn name(&self) -> String {
        match self {
            Self::Registry(reference) | Self::Image(reference) => reference.familiar(),
            Self::Layout(_, tag) => format!("{tag:?} of a directory"),
        }
    }
}

impl Imported {
    /// Those of sources before it are believed first.
    fn add(&mut self, origin: Origin, steps: HashMap<Digest, Step>) {
        let number = self.origins.len();
        self.origins.push(origin);
        for (key, step) in steps {
            self.steps.entry(key).or_insert((number, step));
        }
    }

    async fn warn(&self, text: String) {
        let text = format!("[Warning] {text}\n");
        let _gone = self.out.send(Said::Text(text)).await;
    }

    /// When a step that changed the config alone was made first.
    pub fn created(&self, key: &Digest) -> Option<&str> {
        let (_, step) = self.steps.get(key)?;
        step.layer.is_none().then_some(step.created.as_str())
    }

    /// The layer that a step made, and when.
    pub fn layer(&self, key: &Digest) -> Option<(&Layer, &str)> {
        let (_, step) = self.steps.get(key)?;
        let layer = step.layer.as_ref()?;
        let is_bad = self.useless.lock().contains(key);
        (!is_bad).then_some((layer, step.created.as_str()))
    }

    /// The archive of a step's layer, in a file of its own, and its digest, which was checked.
    ///
    /// # Errors
    /// If it is not there any more, or not what the cache says.
    pub async fn fetch(&self, images: &Images, key: &Digest) -> Result<(File, Digest)> {
        let gone = || Error::invalid("the cache does not have it");
        let (number, step) = self.steps.get(key).ok_or_else(gone)?;
        let layer = step.layer.as_ref().ok_or_else(gone)?;
        let origin = self.origins.get(*number).ok_or_else(gone)?;
        origin.archive(images, layer).await
    }

    /// Says that a step's layer cannot be had: it is asked for no more.
    pub async fn refuse(&self, key: &Digest, error: &Error) {
        self.useless.lock().insert(key.clone());
        let problem = chain(error);
        self.warn(format!("a step is carried out that a cache has: {problem}"))
            .await;
    }
}

async fn load(
    images: &Images,
    source: CacheSource,
    credentials: &(dyn Fn(&ImageRef) -> Credentials + Send + Sync),
) -> Result<(Origin, HashMap<Digest, Step>)> {
    match source {
        CacheSource::Image(reference) => match images.get(&reference.to_string()) {
            Some(image) => here(images, image).await,
            None => there(images, reference, credentials).await,
        },
        CacheSource::Registry(reference) => there(images, reference, credentials).await,
        CacheSource::Layout(layout, tag) => {
            let origin = Origin::Layout(Arc::new(layout));
            let Origin::Layout(layout) = &origin else {
                return Err(Error::CutShort("reading a layout"));
            };
            let first = offered::tagged(layout.index(), &tag)?;
            let bytes = origin.bytes(images, &first, true).await?;
            let steps = follow(images, &origin, bytes).await?;
            Ok((origin, steps))
        }
    }
}

async fn there(
    images: &Images,
    reference: ImageRef,
    credentials: &(dyn Fn(&ImageRef) -> Credentials + Send + Sync),
) -> Result<(Origin, HashMap<Digest, Step>)> {
    let credentials = credentials(&reference);
    let resolved = images.registry().resolve(&reference, &credentials).await;
    let resolved = resolved.map_err(reaching(&reference))?;
    let origin = Origin::Registry {
        reference,
        credentials,
    };
    let steps = follow(images, &origin, resolved.bytes.to_vec()).await?;
    Ok((origin, steps))
}

async fn here(images: &Images, image: Arc<Image>) -> Result<(Origin, HashMap<Digest, Step>)> {
    let config = images.config_document(&image).await?;
    // What the layers are called in the manifest is of no interest: they are here.
    let blobs: Vec<Blob> = image
        .layers
        .iter()
        .map(|layer| Blob {
            digest: layer.digest().clone(),
            size: 0,
        })
        .collect();
    let (records, layers) = offered::inline(&config, &blobs)?;
    let steps = document::read_inline(&records, &layers)?;
    let diff_ids = layers.into_iter().map(|layer| layer.diff_id).collect();
    Ok((Origin::Here(image, diff_ids), steps))
}

/// From a manifest to the records.
async fn follow(
    images: &Images,
    origin: &Origin,
    mut bytes: Vec<u8>,
) -> Result<HashMap<Digest, Step>> {
    for _ in 0..MAX_DEPTH {
        match offered::read(&bytes, images.platform())? {
            Offered::Manifest(blob) => bytes = origin.bytes(images, &blob, true).await?,
            Offered::Cache { document, layers } => {
                let document = origin.bytes(images, &document, false).await?;
                return document::read(&document, &layers);
            }
            Offered::Image { config, layers } => {
                let config = origin.bytes(images, &config, false).await?;
                let (records, layers) = offered::inline(&config, &layers)?;
                return document::read_inline(&records, &layers);
            }
        }
    }
    Err(Error::invalid("its indexes point to indexes too deeply"))
}

fn reaching(reference: &ImageRef) -> impl Fn(berth_registry::Error) -> Error {
    let reference = reference.familiar();
    move |source| Error::Registry {
        reference: reference.clone(),
        source: Box::new(source),
    }
}

impl Origin {
    /// A document, checked.
    async fn bytes(&self, images: &Images, blob: &Blob, is_manifest: bool) -> Result<Vec<u8>> {
        let Blob { digest, size } = blob;
        let bytes = match self {
            Self::Registry {
                reference,
                credentials,
            } if is_manifest => {
                let found = images.registry().manifest(reference, digest, credentials);
                found.await.map_err(reaching(reference))?.bytes.to_vec()
            }
            Self::Registry {
                reference,
                credentials,
            } => {
                let registry = images.registry();
                let found = registry.blob_bytes(reference, digest, LARGEST, credentials);
                found.await.map_err(reaching(reference))?.to_vec()
            }
            Self::Layout(layout) => {
                let (layout, digest) = (Arc::clone(layout), digest.clone());
                blocking("reading a layout", move || layout.bytes(&digest)).await?
            }
            Self::Here(..) => return Err(Error::CutShort("reading a cache")),
        };
        match bytes.len() as u64 == *size {
            true => Ok(bytes),
            false => Err(Error::invalid(format!(
                "{digest} has {} bytes, and not {size}",
                bytes.len()
            ))),
        }
    }

    /// A layer's archive, checked but for what is in it.
    async fn archive(&self, images: &Images, layer: &Layer) -> Result<(File, Digest)> {
        let Layer {
            blob,
            size,
            diff_id,
        } = layer;
        let file = match self {
            Self::Registry {
                reference,
                credentials,
            } => {
                let spool = images.spool().await?;
                download(images, (reference, credentials), (blob, *size), spool).await?
            }
            Self::Layout(layout) => {
                let (layout, blob, size) = (Arc::clone(layout), blob.clone(), *size);
                let spool = images.spool().await?;
                let copy = move || layout.copy(&blob, size, spool);
                blocking("reading a layout", copy).await?
            }
            Self::Here(image, diff_ids) => {
                let number = diff_ids.iter().position(|known| known == diff_id);
                let number = number.ok_or_else(|| Error::invalid("the image does not have it"))?;
                let stored = images.stored_layer(image, number, Packing::Plain).await?;
                return Ok((stored.file, stored.digest));
            }
        };
        Ok((file, blob.clone()))
    }
}

async fn download(
    images: &Images,
    (reference, credentials): (&ImageRef, &Credentials),
    (digest, size): (&Digest, u64),
    spool: File,
) -> Result<File> {
    let registry = images.registry();
    let stream = registry.blob(reference, digest, Some(size), 0, credentials);
    let mut stream = stream.await.map_err(reaching(reference))?;
    let (mut file, mut hash, mut left) = (spool, sha2::Sha256::new(), size);
    while let Some(piece) = stream.chunk().await.map_err(reaching(reference))? {
        left = left
            .checked_sub(piece.len() as u64)
            .ok_or_else(|| Error::invalid(format!("{digest} has more than its {size} bytes")))?;
        (file, hash) = blocking("writing a layer", move || {
            hash.update(&piece);
            file.write_all(&piece).map_err(Error::Layer)?;
            Ok((file, hash))
        })
        .await?;
    }
    match left == 0 && Digest::from_sha256(hash.finalize().into()) == *digest {
        true => Ok(file),
        false => Err(Error::invalid(format!(
            "what {} gives as {digest} is something else",
            reference.familiar()
        ))),
    }
}
