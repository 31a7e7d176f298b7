//! `GET /images/get` and `GET /images/{name}/get`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use berth_images::Chosen;
use berth_names::ImageRef;

use super::name;
use crate::events::Kind;
use crate::{Engine, Error, Query, Result, pieces};

pub async fn many(State(engine): State<Arc<Engine>>, query: Query) -> Result<Response> {
    let names: Vec<&str> = query.all("names").collect();
    match query.flag("berth-index") {
        true => save_index(&engine, &names, &query),
        // Berth's own client asks for what is said of images, too.
        false => save(&engine, &names, query.flag("berth-attestations")),
    }
}

/// One image of several platforms, under the names of `berth-name`.
fn save_index(engine: &Arc<Engine>, members: &[&str], query: &Query) -> Result<Response> {
    let members = members.iter().map(|id| name::find(engine, id));
    let members = members.collect::<Result<Vec<_>>>()?;
    let names = query.all("berth-name").map(name::parse);
    let names = names.collect::<Result<Vec<_>>>()?;
    let images = Arc::clone(&engine.images);
    Ok(pieces::archive(|sink| async move {
        let saved = images.save_index(&members, names, sink).await;
        saved.map_err(Error::from)
    }))
}

pub fn save(engine: &Arc<Engine>, names: &[&str], is_attested: bool) -> Result<Response> {
    if names.is_empty() {
        return Err(Error::bad("no image is named: add names=…"));
    }
    let mut chosen: Vec<Chosen> = Vec::new();
    for name in names {
        for one in choose(engine, name)? {
            match chosen
                .iter_mut()
                .find(|known| known.image.id == one.image.id)
            {
                Some(known) => known.names.extend(one.names),
                None => chosen.push(one),
            }
        }
    }
    for one in &chosen {
        let id = one.image.id.to_string();
        let attributes = super::attributes(&one.image, &id);
        engine.events.publish(Kind::Image, "save", id, attributes);
    }
    let images = Arc::clone(&engine.images);
    Ok(pieces::archive(|sink| async move {
        images
            .save(chosen, is_attested, sink)
            .await
            .map_err(Error::from)
    }))
}

/// By a tag the image has that name in the archive, by a bare repository each of its images has
/// all its tags, and by id it has none.
fn choose(engine: &Engine, name: &str) -> Result<Vec<Chosen>> {
    let reference = ImageRef::parse(name).ok();
    if let Some(reference) = &reference
        && reference.familiar() != name
        && reference.to_string() != name
    {
        let tags = of_repository(engine, reference);
        if !tags.is_empty() {
            return Ok(tags);
        }
    }
    let image = name::find(engine, name)?;
    let known = reference.filter(|reference| {
        let found = engine.images.reference(reference);
        reference.digest().is_none() && found.is_some_and(|found| found.image == image.id)
    });
    let names = known.into_iter().collect();
    Ok(vec![Chosen { image, names }])
}

fn of_repository(engine: &Engine, wanted: &ImageRef) -> Vec<Chosen> {
    let repository = wanted.repository();
    let mut chosen = Vec::new();
    for image in engine.images.list() {
        let tags = image.repo_tags.iter();
        let names: Vec<_> = tags
            .filter_map(|tag| ImageRef::parse(tag).ok())
            .filter(|tag| tag.repository() == repository)
            .collect();
        if !names.is_empty() {
            chosen.push(Chosen { image, names });
        }
    }
    chosen
}
