//! `DELETE /images/{name}`: takes a name, and the image with its last one.

use std::sync::Arc;

use berth_images::Image;
use berth_names::{ContainerId, ImageRef};
use serde::Serialize;

use super::name;
use super::pull::short;
use super::users::Users;
use crate::events::Kind;
use crate::{Engine, Error, Json, Query, Result};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Removed {
    Untagged(String),
    Deleted(String),
}

pub async fn delete(engine: &Engine, name: &str, query: &Query) -> Result<Json<Vec<Removed>>> {
    if name.is_empty() {
        return Err(Error::bad("image name cannot be blank"));
    }
    let image = name::find(engine, name)?;
    let force = query.flag("force");
    let taken = match by_reference(engine, &image, name) {
        Some(reference) => names_with(&image, &reference),
        None => all_names(&image, force)?,
    };
    let is_last = taken.len() == image.repo_tags.len() + image.repo_digests.len();
    // A container that ended is started from its image again, so that stays, without a name.
    let and_image = is_last && check_unused(engine, &image, name, force)?;
    take(engine, &image, taken, and_image).await.map(Json)
}

/// The reference by which the image was named; `None` where its id was.
fn by_reference(engine: &Engine, image: &Image, name: &str) -> Option<ImageRef> {
    let reference = ImageRef::parse(name).ok()?;
    let known = engine.images.reference(&reference)?;
    (known.image == image.id).then_some(reference)
}

/// A tag takes the digests of its repository along, if it is the repository's last.
fn names_with(image: &Image, reference: &ImageRef) -> Vec<String> {
    if let Some(digest) = reference.digest() {
        return vec![reference.with_digest(digest.clone()).to_string()];
    }
    let tag = reference.tagged().unwrap_or_default();
    let repository = reference.repository();
    let is_of =
        |name: &String| ImageRef::parse(name).is_ok_and(|parsed| parsed.repository() == repository);
    let others = image.repo_tags.iter().filter(|name| **name != tag);
    let mut names = vec![tag.clone()];
    if !others.clone().any(is_of) {
        names.extend(
            image
                .repo_digests
                .iter()
                .filter(|name| is_of(name))
                .cloned(),
        );
    }
    names
}

/// By its id an image is removed whole, if it has one repository, or by force.
fn all_names(image: &Image, force: bool) -> Result<Vec<String>> {
    let repositories = image.repo_tags.iter().filter_map(|name| {
        let reference = ImageRef::parse(name).ok()?;
        Some(reference.repository())
    });
    let mut repositories: Vec<String> = repositories.collect();
    repositories.dedup();
    if repositories.len() > 1 && !force {
        return Err(Error::Conflict(format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple \
             repositories",
            short(&image.id)
        )));
    }
    let all = image.repo_tags.iter().chain(&image.repo_digests);
    Ok(all.cloned().collect())
}

/// Whether nothing uses the image. Its names go from under containers only by force, and from
/// under one that runs not at all.
fn check_unused(engine: &Engine, image: &Image, name: &str, force: bool) -> Result<bool> {
    let users = Users::now(engine);
    let short_id = |user: &ContainerId| berth_names::short(user.as_str()).to_owned();
    if let Some((user, _)) = users.of(&image.id).find(|(_, runs)| *runs) {
        return Err(Error::Conflict(format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running \
             container {}",
            short(&image.id),
            short_id(user)
        )));
    }
    match users.of(&image.id).next() {
        Some((user, _)) if !force => Err(Error::Conflict(match ImageRef::parse(name) {
            Ok(reference) if engine.images.reference(&reference).is_some() => format!(
                "conflict: unable to remove repository reference {:?} (must force) - container \
                 {} is using its referenced image {}",
                reference.familiar(),
                short_id(user),
                short(&image.id)
            ),
            _ => format!(
                "conflict: unable to delete {} (must be forced) - image is being used by stopped \
                 container {}",
                short(&image.id),
                short_id(user)
            ),
        })),
        user => Ok(user.is_none()),
    }
}

/// Takes the names, the image with the last of them, and says so.
pub async fn take(
    engine: &Engine,
    image: &Arc<Image>,
    names: Vec<String>,
    and_image: bool,
) -> Result<Vec<Removed>> {
    let untagged = engine.images.untag(&image.id, names, and_image).await?;
    let id = image.id.to_string();
    let mut removed = Vec::new();
    for name in &untagged.names {
        let shown = name::familiar(name);
        let attributes = super::attributes(image, &id);
        engine
            .events
            .publish(Kind::Image, "untag", id.clone(), attributes);
        removed.push(Removed::Untagged(shown));
    }
    if untagged.deleted {
        let attributes = super::attributes(image, &id);
        engine
            .events
            .publish(Kind::Image, "delete", id.clone(), attributes);
        removed.push(Removed::Deleted(id));
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_names::Digest;
    use std::time::SystemTime;

    fn image(tags: &[&str], digests: &[&str]) -> Image {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let id = Digest::sha256_of(b"config");
        Image {
            manifest: id.clone(),
            id,
            repo_tags: owned(tags),
            repo_digests: owned(digests),
            size: 0,
            config: Default::default(),
            layers: Vec::new(),
            pulled_at: SystemTime::UNIX_EPOCH,
            pinned: false,
            artifact: None,
        }
    }

    #[test]
    fn the_last_tag_of_a_repository_takes_its_digests_along() {
        let digest = Digest::sha256_of(b"manifest");
        let (one, two) = (format!("r.io/a@{digest}"), format!("r.io/b@{digest}"));
        let image = image(&["r.io/a:1", "r.io/a:2", "r.io/b:1"], &[&one, &two]);
        let taken = |name: &str| names_with(&image, &ImageRef::parse(name).unwrap());
        assert_eq!(taken("r.io/a:1"), ["r.io/a:1"]);
        assert_eq!(taken("r.io/b:1"), ["r.io/b:1".to_owned(), two]);
        assert_eq!(taken(&one), vec![one.clone()]);
    }

    #[test]
    fn an_id_stands_for_all_names_of_one_repository() {
        let same = image(&["r.io/a:1", "r.io/a:2"], &[]);
        assert_eq!(all_names(&same, false).unwrap().len(), 2);
        let mixed = image(&["r.io/a:1", "r.io/b:1"], &[]);
        let refused = all_names(&mixed, false).unwrap_err();
        assert_eq!(refused.status().as_u16(), 409);
        assert_eq!(all_names(&mixed, true).unwrap().len(), 2);
    }
}
