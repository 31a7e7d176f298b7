//! Names of images that are here: giving, taking and following them.

use berth_metadata::schema::{IMAGES, REFERENCES, ReferenceRecord};
use berth_names::{Digest, ImageRef};

use crate::catalog;
use crate::collect::Leftovers;
use crate::{Images, Result};

/// What a reference means here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Canonical: `repository:tag` or `repository@digest`.
    pub name: String,
    /// The image's id.
    pub image: Digest,
    /// The manifest or index that it was pulled as.
    pub target: Digest,
}

/// What was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Untagged {
    /// Names that no longer are, canonical.
    pub names: Vec<String>,
    /// Whether the image itself went with the last of them.
    pub deleted: bool,
}

impl Images {
    /// What a reference means now. From memory.
    pub fn reference(&self, name: &ImageRef) -> Option<Reference> {
        let catalog = self.shared.catalog();
        let (name, record) = catalog.reference(name)?;
        Some(Reference {
            name,
            image: record.image.clone(),
            target: record.target.clone(),
        })
    }

    /// Gives an image a further name, taking it from the image that had it. `false` if there is no
    /// such image.
    pub async fn tag(&self, image: &Digest, name: &ImageRef) -> Result<bool> {
        let (id, name) = (image.clone(), catalog::key(name));
        self.shared
            .change(move |catalog, batch| {
                let Some(record) = catalog.record(&id) else {
                    return Ok((catalog.clone(), false));
                };
                let target = record.manifest.clone();
                let reference = ReferenceRecord { image: id, target };
                batch.put(REFERENCES, &name, &reference)?;
                Ok((catalog.with_reference(name, reference), true))
            })
            .await
    }

    /// Takes names from an image, those that still mean it. With `and_image` the image goes too if
    /// no name is left; what nothing else needs is collected behind.
    pub async fn untag(
        &self,
        image: &Digest,
        names: Vec<String>,
        and_image: bool,
    ) -> Result<Untagged> {
        let id = image.clone();
        let untagged = self
            .shared
            .change(move |catalog, batch| {
                let present: Vec<String> = catalog.names_of(&id).map(str::to_owned).collect();
                let (taken, left): (Vec<_>, Vec<_>) =
                    present.into_iter().partition(|name| names.contains(name));
                for name in &taken {
                    batch.remove(REFERENCES, name);
                }
                let deleted = and_image && left.is_empty() && catalog.record(&id).is_some();
                let mut next = catalog.without_references(&taken);
                if deleted {
                    batch.remove(IMAGES, &id);
                    (next, _) = next.without(&id);
                }
                tracing::info!(image = %id, ?taken, deleted, "taking names of an image");
                let names = taken;
                Ok((next, Untagged { names, deleted }))
            })
            .await?;
        if untagged.deleted {
            self.shared.collect_behind(Leftovers::KeepRecent);
        }
        Ok(untagged)
    }
}
