//! What this node has, in memory. Pure: the records are read and written elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_metadata::schema::{ImageRecord, ReferenceRecord};
use berth_names::{ChainId, Digest, ImageRef};

use crate::image::{Image, ImageConfig};

/// All images and references. A change makes a new catalog; readers keep the one they have.
#[derive(Clone, Default)]
pub(crate) struct Catalog {
    entries: BTreeMap<Digest, Entry>,
    references: BTreeMap<String, ReferenceRecord>,
}

#[derive(Clone)]
struct Entry {
    record: Arc<ImageRecord>,
    image: Arc<Image>,
    /// Whether every layer is there. An image that lost one (to a power cut, say) is not shown, so
    /// that it is pulled again, but keeps what it still has.
    complete: bool,
}

impl Catalog {
    /// Builds the catalog at start. `has_layer` tells which layers are there.
    pub(crate) fn load(
        images: Vec<(Digest, ImageRecord)>,
        references: Vec<(String, ReferenceRecord)>,
        has_layer: impl Fn(&ChainId) -> bool,
    ) -> Self {
        let mut catalog = Self {
            entries: BTreeMap::new(),
            references: BTreeMap::new(),
        };
        for (id, record) in images {
            let missing = record
                .layers
                .iter()
                .find(|layer| !has_layer(&layer.chain_id));
            if let Some(layer) = missing {
                tracing::warn!(image = %id, layer = %layer.chain_id,
                    "an image has lost a layer and is hidden until it is pulled again");
            }
            let complete = missing.is_none();
            catalog.insert(id, record, complete);
        }
        for (name, reference) in references {
            match catalog.entries.contains_key(&reference.image) {
                true => drop(catalog.references.insert(name, reference)),
                false => tracing::warn!(name, image = %reference.image,
                    "a reference names an image that is not here"),
            }
        }
        let ids: Vec<_> = catalog.entries.keys().cloned().collect();
        ids.iter().for_each(|id| catalog.name(id));
        catalog
    }

    /// The catalog with an image and references added or replaced.
    pub(crate) fn with(
        &self,
        id: &Digest,
        record: ImageRecord,
        references: &[(String, ReferenceRecord)],
    ) -> Self {
        let mut next = self.clone();
        next.insert(id.clone(), record, true);
        let mut renamed = vec![id.clone()];
        for (name, reference) in references {
            let previous = next.references.insert(name.clone(), reference.clone());
            renamed.extend(previous.map(|previous| previous.image));
        }
        renamed.iter().for_each(|id| next.name(id));
        next
    }

    /// The catalog without an image, and the names that went with it.
    pub(crate) fn without(&self, id: &Digest) -> (Self, Vec<String>) {
        let mut next = self.clone();
        next.entries.remove(id);
        let names: Vec<String> = self.names_of(id).map(str::to_owned).collect();
        for name in &names {
            next.references.remove(name);
        }
        (next, names)
    }

    /// The catalog with a name more, or one that means something else now.
    pub(crate) fn with_reference(&self, name: String, reference: ReferenceRecord) -> Self {
        let mut next = self.clone();
        let id = reference.image.clone();
        let previous = next.references.insert(name, reference);
        next.name(&id);
        if let Some(previous) = previous {
            next.name(&previous.image);
        }
        next
    }

    /// The catalog without these names.
    pub(crate) fn without_references(&self, names: &[String]) -> Self {
        let mut next = self.clone();
        for name in names {
            if let Some(previous) = next.references.remove(name) {
                next.name(&previous.image);
            }
        }
        next
    }

    /// Repositories whose images have a blob.
    pub(crate) fn repositories_with<'a>(
        &'a self,
        blob: &'a Digest,
    ) -> impl Iterator<Item = ImageRef> + 'a {
        self.references.iter().filter_map(move |(name, reference)| {
            let entry = self.entries.get(&reference.image)?;
            let has = entry.record.blobs.contains(blob);
            has.then(|| ImageRef::parse(name).ok())?
        })
    }

    /// What a name means, and its canonical form.
    pub(crate) fn reference(&self, name: &ImageRef) -> Option<(String, &ReferenceRecord)> {
        let key = key(name);
        let record = self.references.get(&key)?;
        Some((key, record))
    }

    pub(crate) fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.entries
            .values()
            .filter(|entry| entry.complete)
            .map(|entry| &entry.image)
    }

    /// Records of all images, hidden ones too.
    pub(crate) fn records(&self) -> impl Iterator<Item = &ImageRecord> {
        self.entries.values().map(|entry| &*entry.record)
    }

    /// Records of images that are shown.
    pub(crate) fn complete(&self) -> impl Iterator<Item = &ImageRecord> {
        let shown = self.entries.values().filter(|entry| entry.complete);
        shown.map(|entry| &*entry.record)
    }

    /// Whether a layer is an artifact's.
    pub(crate) fn is_artifact(&self, layer: &ChainId) -> bool {
        let mut artifacts = self
            .records()
            .filter(|record| record.artifact_type.is_some());
        artifacts.any(|record| record.layers.iter().any(|known| known.chain_id == *layer))
    }

    /// The catalog with every image hidden that stands on a layer; `None` if there is none.
    pub(crate) fn without_layer(&self, layer: &ChainId) -> Option<Self> {
        let stands = |entry: &Entry| {
            let mut layers = entry.record.layers.iter();
            entry.complete && layers.any(|known| known.chain_id == *layer)
        };
        if !self.entries.values().any(stands) {
            return None;
        }
        let mut next = self.clone();
        for entry in next.entries.values_mut() {
            entry.complete &= !stands(entry);
        }
        Some(next)
    }

    /// The record, if the image is complete.
    pub(crate) fn record(&self, id: &Digest) -> Option<&ImageRecord> {
        self.entries
            .get(id)
            .filter(|entry| entry.complete)
            .map(|entry| &*entry.record)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Image>> {
        let entry = self.entries.get(&self.find(name)?)?;
        entry.complete.then(|| Arc::clone(&entry.image))
    }

    /// The id of what `name` means: an id, a reference, or the unambiguous start of an id.
    /// Hidden images are found too.
    pub(crate) fn find(&self, name: &str) -> Option<Digest> {
        if let Some(id) = full_id(name)
            && self.entries.contains_key(&id)
        {
            return Some(id);
        }
        if let Ok(reference) = ImageRef::parse(name)
            && let Some(known) = self.references.get(&key(&reference))
        {
            return Some(known.image.clone());
        }
        self.by_prefix(name.strip_prefix("sha256:").unwrap_or(name))
    }

    fn by_prefix(&self, prefix: &str) -> Option<Digest> {
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut matches = self
            .entries
            .keys()
            .filter(|id| id.hex().starts_with(prefix));
        let first = matches.next()?;
        matches.next().is_none().then(|| first.clone())
    }

    fn insert(&mut self, id: Digest, record: ImageRecord, complete: bool) {
        let record = Arc::new(record);
        let image = Arc::new(describe(&id, &record));
        self.entries.insert(
            id,
            Entry {
                record,
                image,
                complete,
            },
        );
    }

    /// Brings an image's names up to date with the references.
    fn name(&mut self, id: &Digest) {
        let (digests, tags): (Vec<_>, Vec<_>) = self
            .names_of(id)
            .map(str::to_owned)
            .partition(|name| name.contains('@'));
        if let Some(entry) = self.entries.get_mut(id) {
            let image = Arc::make_mut(&mut entry.image);
            (image.repo_tags, image.repo_digests) = (tags, digests);
        }
    }

    pub(crate) fn names_of(&self, id: &Digest) -> impl Iterator<Item = &str> {
        let id = id.clone();
        self.references
            .iter()
            .filter(move |(_, reference)| reference.image == id)
            .map(|(name, _)| name.as_str())
    }
}

/// The name that a reference is stored under: by digest if it has one, whatever its tag says.
pub(crate) fn key(reference: &ImageRef) -> String {
    match (reference.digest(), reference.tagged()) {
        (Some(digest), _) => reference.with_digest(digest.clone()).to_string(),
        (None, Some(tagged)) => tagged,
        (None, None) => reference.to_string(),
    }
}

fn full_id(name: &str) -> Option<Digest> {
    Digest::parse(name)
        .or_else(|_| Digest::parse(&format!("sha256:{name}")))
        .ok()
}

fn describe(id: &Digest, record: &ImageRecord) -> Image {
    // The config was checked when it was pulled; should it not be readable by now, the image runs
    // with an empty one rather than vanish.
    let config = serde_json::from_value(record.config.clone()).unwrap_or_else(|error| {
        tracing::warn!(image = %id, %error, "the config of an image cannot be read");
        ImageConfig::default()
    });
    Image {
        id: id.clone(),
        repo_tags: Vec::new(),
        repo_digests: Vec::new(),
        manifest: record.manifest.clone(),
        size: record.size,
        config,
        layers: record
            .layers
            .iter()
            .map(|layer| layer.chain_id.clone())
            .collect(),
        pulled_at: record.pulled_at,
        pinned: record.pinned,
        artifact: record.artifact_type.clone(),
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
