//! Manifests and configs: small documents, from the content store if it has them.

use berth_names::Digest;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::artifact::{self, Artifact};
use crate::images::blocking;
use crate::manifest::{self, Descriptor, MAX_CONFIG, MAX_MANIFEST};
use crate::pull::Pull;
use crate::{Error, Result};

/// A document that was fetched or found, verified.
#[derive(Clone)]
pub(crate) struct Document {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

/// Indexes may point to indexes, but no deeper.
const MAX_DEPTH: usize = 3;

/// What a reference leads to.
pub(crate) struct Found {
    /// The top-level document first; the platform's manifest is the last.
    pub trail: Vec<Document>,
    /// Of the last one.
    pub manifest: Digest,
    pub content: Content,
}

/// What a manifest describes.
pub(crate) enum Content {
    Image {
        manifest: manifest::Manifest,
        config: Document,
    },
    Artifact(Artifact),
}

/// Follows the reference from the registry's answer to the manifest for this platform.
pub(crate) async fn find(pull: &Pull, cancel: &CancellationToken) -> Result<Found> {
    let answer = pull
        .shared
        .registry
        .resolve(&pull.reference, &pull.credentials);
    let resolved = pull
        .unless(cancel, answer)
        .await?
        .map_err(|error| pull.registry(error))?;
    let mut current = Document {
        digest: resolved.digest,
        media_type: resolved.media_type,
        bytes: resolved.bytes,
    };
    let mut trail = Vec::new();
    while manifest::is_index(&current.media_type) {
        if trail.len() >= MAX_DEPTH {
            let problem = "indexes point to indexes too deeply";
            return Err(Error::invalid(
                "index",
                &current.digest,
                "manifests",
                problem,
            ));
        }
        let reference = pull.reference.to_string();
        let host = &pull.platform;
        let Document {
            digest,
            media_type,
            bytes,
        } = &current;
        let chosen = manifest::choose(&reference, digest, media_type, bytes, host)?;
        let next = load_manifest(pull, &chosen, cancel).await?;
        trail.push(std::mem::replace(&mut current, next));
    }
    let content = content(pull, &current, cancel).await?;
    let manifest = current.digest.clone();
    trail.push(current);
    Ok(Found {
        trail,
        manifest,
        content,
    })
}

/// The config of an artifact means nothing here; it is left where it is.
async fn content(pull: &Pull, document: &Document, cancel: &CancellationToken) -> Result<Content> {
    let Document {
        digest,
        media_type,
        bytes,
    } = document;
    if let Some(artifact) = artifact::read(digest, media_type, bytes)? {
        return Ok(Content::Artifact(artifact));
    }
    let manifest = manifest::manifest(digest, media_type, bytes)?;
    let config = load_config(pull, &manifest.config, cancel).await?;
    Ok(Content::Image { manifest, config })
}

async fn load_manifest(
    pull: &Pull,
    descriptor: &Descriptor,
    cancel: &CancellationToken,
) -> Result<Document> {
    if descriptor.size > MAX_MANIFEST {
        let problem = format!("{} is more than {MAX_MANIFEST}", descriptor.size);
        return Err(Error::invalid(
            "manifest",
            &descriptor.digest,
            "size",
            problem,
        ));
    }
    let document = match stored(pull, descriptor, MAX_MANIFEST).await? {
        Some(document) => document,
        None => {
            let registry = &pull.shared.registry;
            let fetch = registry.manifest(&pull.reference, &descriptor.digest, &pull.credentials);
            let resolved = pull
                .unless(cancel, fetch)
                .await?
                .map_err(|error| pull.registry(error))?;
            Document {
                digest: resolved.digest,
                media_type: resolved.media_type,
                bytes: resolved.bytes,
            }
        }
    };
    check_size("manifest", descriptor, &document.bytes)?;
    if !descriptor.media_type.is_empty() && descriptor.media_type != document.media_type {
        let problem = format!(
            "{:?} was announced as {:?}",
            document.media_type, descriptor.media_type
        );
        return Err(Error::invalid(
            "manifest",
            &descriptor.digest,
            "mediaType",
            problem,
        ));
    }
    Ok(document)
}

async fn load_config(
    pull: &Pull,
    descriptor: &Descriptor,
    cancel: &CancellationToken,
) -> Result<Document> {
    let document = match stored(pull, descriptor, MAX_CONFIG).await? {
        Some(document) => document,
        None => {
            let registry = &pull.shared.registry;
            let (image, credentials) = (&pull.reference, &pull.credentials);
            let fetch =
                registry.blob_bytes(image, &descriptor.digest, descriptor.size, credentials);
            let bytes = pull
                .unless(cancel, fetch)
                .await?
                .map_err(|error| pull.registry(error))?;
            Document {
                digest: descriptor.digest.clone(),
                media_type: descriptor.media_type.clone(),
                bytes,
            }
        }
    };
    check_size("config", descriptor, &document.bytes)?;
    Ok(document)
}

fn check_size(kind: &'static str, descriptor: &Descriptor, bytes: &Bytes) -> Result<()> {
    if bytes.len() as u64 == descriptor.size {
        return Ok(());
    }
    let problem = format!(
        "{} bytes were announced, there are {}",
        descriptor.size,
        bytes.len()
    );
    Err(Error::invalid(kind, &descriptor.digest, "size", problem))
}

/// A document that the content store has. One that is damaged is removed and fetched again.
async fn stored(pull: &Pull, descriptor: &Descriptor, limit: u64) -> Result<Option<Document>> {
    // Without its media type, only the registry can say what a manifest is.
    if descriptor.media_type.is_empty() {
        return Ok(None);
    }
    let (content, wanted) = (pull.shared.content.clone(), descriptor.clone());
    blocking("read document", move || match content.read(&wanted.digest, limit) {
        Ok(bytes) => Ok(Some(Document {
            digest: wanted.digest,
            media_type: wanted.media_type,
            bytes,
        })),
        Err(berth_content::Error::NotFound(_)) => Ok(None),
        Err(berth_content::Error::DigestMismatch { .. }) => {
            tracing::warn!(digest = %wanted.digest, "a stored document is damaged: fetching it");
            content.remove(&wanted.digest).map_err(Error::content("remove a damaged blob"))?;
            Ok(None)
        }
        Err(error) => Err(Error::content("read a document")(error)),
    })
    .await
}

/// Keeps documents in the content store, synced.
pub(crate) async fn keep(pull: &Pull, documents: Vec<Document>) -> Result<()> {
    let content = pull.shared.content.clone();
    blocking("store documents", move || {
        documents.iter().try_for_each(|document| {
            content
                .put(&document.digest, &document.bytes)
                .map_err(Error::content("store a document"))
        })
    })
    .await
}
