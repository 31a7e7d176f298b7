//! From an archive to images.

use berth_names::{Digest, ImageRef};
use bytes::Bytes;
use serde::Deserialize;

use super::contents::Contents;
use super::{NAME, REF_NAME};
use crate::images::blocking;
use crate::intake::Section;
use crate::manifest::{self, MAX_CONFIG, MAX_MANIFEST, RawDescriptor};
use crate::platform::Platform;
use crate::{Error, Images, Result};

/// Indexes may point to indexes, but no deeper.
const MAX_DEPTH: usize = 3;
const MAX_IMAGES: usize = 1000;
const CONTENT: &str = "store an archive";

/// An image that was in an archive and is here now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub id: Digest,
    /// As the archive gave them.
    pub names: Vec<ImageRef>,
}

/// One image of an archive, read as far as memory should hold.
struct Planned {
    config: Bytes,
    manifest: Option<Bytes>,
    layers: Vec<Section>,
    names: Vec<ImageRef>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<RawDescriptor>,
}

/// One entry of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Images {
    /// Takes all images of an archive in; those for other machines are passed over.
    ///
    /// # Errors
    /// If it is no archive of images, or one of them is damaged. Images that came before it stay.
    pub async fn load(&self, archive: Section) -> Result<Vec<Loaded>> {
        let content = self.shared.content.clone();
        let platform = self.shared.config.platform.clone();
        let planned = blocking("look through an archive", move || {
            let spool = || content.spool().map_err(Error::content(CONTENT));
            let contents = Contents::read(&archive, spool)?;
            plan(&contents, &platform)
        })
        .await?;
        let mut loaded = Vec::with_capacity(planned.len());
        for image in planned {
            let mut intake = self.intake(None).await?;
            for layer in image.layers {
                intake.layer(layer).await?;
            }
            let id = intake
                .finish(image.config, image.manifest, &image.names)
                .await?;
            loaded.push(Loaded {
                id,
                names: image.names,
            });
        }
        Ok(loaded)
    }
}

fn plan(contents: &Contents, host: &Platform) -> Result<Vec<Planned>> {
    let entries = entries(contents)?;
    let mut planned = match contents.document("index.json", MAX_MANIFEST)? {
        Some(index) => layout(contents, &index, host)?,
        None => Vec::new(),
    };
    for entry in &entries {
        let names = names(entry.repo_tags.iter().flatten())?;
        let config = contents.document(&entry.config, MAX_CONFIG)?;
        let config = config.ok_or_else(|| missing(&entry.config))?;
        // A layout's image has its manifest with it, and is the better one of the two.
        match planned.iter_mut().find(|image| image.config == config) {
            Some(image) => {
                for name in names {
                    if !image.names.contains(&name) {
                        image.names.push(name);
                    }
                }
            }
            None => planned.push(Planned {
                layers: layers(contents, entry)?,
                config,
                manifest: None,
                names,
            }),
        }
    }
    if planned.is_empty() {
        let problem = "the archive has no image for this machine: it needs a manifest.json or an \
                       index.json that names one";
        return Err(Error::BadArchive(problem.to_owned()));
    }
    Ok(planned)
}

fn entries(contents: &Contents) -> Result<Vec<Entry>> {
    let Some(bytes) = contents.document("manifest.json", MAX_MANIFEST)? else {
        return Ok(Vec::new());
    };
    let entries: Vec<Entry> = serde_json::from_slice(&bytes)
        .map_err(|error| Error::BadArchive(format!("manifest.json of the archive: {error}")))?;
    match entries.len() {
        0..=MAX_IMAGES => Ok(entries),
        count => Err(Error::BadArchive(format!(
            "{count} images are more than {MAX_IMAGES}"
        ))),
    }
}

fn layers(contents: &Contents, entry: &Entry) -> Result<Vec<Section>> {
    let paths = entry.layers.iter().flatten();
    let found = paths.map(|path| contents.get(path).cloned().ok_or_else(|| missing(path)));
    found.collect()
}

fn missing(path: &str) -> Error {
    Error::BadArchive(format!("the archive names {path:?} and does not have it"))
}

fn names<'a>(given: impl Iterator<Item = &'a String>) -> Result<Vec<ImageRef>> {
    let parsed = given.map(|name| {
        ImageRef::parse(name).map_err(|error| Error::BadArchive(format!("RepoTags: {error}")))
    });
    parsed.collect()
}

/// The images of an OCI layout. What it names and does not have is of other platforms.
fn layout(contents: &Contents, index: &Bytes, host: &Platform) -> Result<Vec<Planned>> {
    let index: Index = serde_json::from_slice(index)
        .map_err(|error| Error::BadArchive(format!("index.json of the archive: {error}")))?;
    if index.manifests.len() > MAX_IMAGES {
        let count = index.manifests.len();
        let problem = format!("{count} images are more than {MAX_IMAGES}");
        return Err(Error::BadArchive(problem));
    }
    let mut planned: Vec<Planned> = Vec::new();
    for raw in index.manifests {
        let names = annotated(&raw);
        let top = manifest::descriptor("index", &nothing(), "manifests", raw)?;
        let Some(bytes) = follow(contents, top.digest, top.media_type, host)? else {
            continue;
        };
        let Some(mut image) = of_manifest(contents, bytes)? else {
            continue;
        };
        match planned
            .iter_mut()
            .find(|known| known.config == image.config)
        {
            Some(known) => known.names.extend(names),
            None => {
                image.names = names;
                planned.push(image);
            }
        }
    }
    Ok(planned)
}

/// An index of an archive has no digest; messages name this one.
fn nothing() -> Digest {
    Digest::sha256_of(b"")
}

fn annotated(raw: &RawDescriptor) -> Vec<ImageRef> {
    let full = raw.annotation(NAME);
    let short = raw
        .annotation(REF_NAME)
        .filter(|name| name.contains([':', '/']));
    let name = full.or(short).and_then(|name| ImageRef::parse(name).ok());
    name.into_iter().collect()
}

/// From an index to the manifest for this machine.
fn follow(
    contents: &Contents,
    mut digest: Digest,
    mut media_type: String,
    host: &Platform,
) -> Result<Option<Bytes>> {
    for _ in 0..MAX_DEPTH {
        let Some(bytes) = contents.blob_document(&digest, MAX_MANIFEST)? else {
            return Ok(None);
        };
        if !manifest::is_index(&media_type) {
            return Ok(Some(bytes));
        }
        let chosen = match manifest::choose("the archive", &digest, &media_type, &bytes, host) {
            Err(Error::NoPlatform { .. }) => return Ok(None),
            chosen => chosen?,
        };
        (digest, media_type) = (chosen.digest, chosen.media_type);
    }
    Ok(None)
}

fn of_manifest(contents: &Contents, bytes: Bytes) -> Result<Option<Planned>> {
    let digest = Digest::sha256_of(&bytes);
    let manifest = manifest::manifest(&digest, "", &bytes)?;
    let Some(config) = contents.blob_document(&manifest.config.digest, MAX_CONFIG)? else {
        return Ok(None);
    };
    let layers = manifest.layers.iter().map(|layer| {
        let found = contents.blob(&layer.digest).cloned();
        found.ok_or_else(|| missing(layer.digest.as_str()))
    });
    Ok(Some(Planned {
        config,
        layers: layers.collect::<Result<_>>()?,
        manifest: Some(bytes),
        names: Vec::new(),
    }))
}
