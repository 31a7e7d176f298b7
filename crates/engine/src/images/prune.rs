//! `POST /images/prune`.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;

use super::delete::{self, Removed};
use super::list::{self, Sizes};
use crate::{Engine, Filters, Json, Query, Result};

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pruned {
    images_deleted: Option<Vec<Removed>>,
    /// Bytes.
    space_reclaimed: u64,
}

/// Removes images that no container uses: those without a tag, or, with `dangling=false`, all.
pub async fn prune(State(engine): State<Arc<Engine>>, query: Query) -> Result<Json<Pruned>> {
    let given = query.filters()?;
    given.only(&["dangling", "label", "label!", "until"])?;
    let mut filters = Filters::default();
    for name in ["label", "label!", "until"] {
        for value in given.values(name) {
            filters.add(name, value);
        }
    }
    let only_dangling = given.flag("dangling")?.unwrap_or(true);
    let before = Sizes::count(&engine).await?;
    let mut removed = Vec::new();
    for image in list::choose(&engine, &filters, false)? {
        let is_dangling = image.repo_tags.is_empty();
        let in_use = engine.runtime.image_in_use(&image.id);
        if in_use || image.pinned || (only_dangling && !is_dangling) {
            continue;
        }
        let names = image.repo_tags.iter().chain(&image.repo_digests);
        let names = names.cloned().collect();
        removed.extend(delete::take(&engine, &image, names, true).await?);
    }
    // What the removed images alone had.
    let after = Sizes::count(&engine).await?;
    let reclaimed = before.used().saturating_sub(after.used());
    Ok(Json(Pruned {
        images_deleted: Some(removed).filter(|removed| !removed.is_empty()),
        space_reclaimed: reclaimed,
    }))
}
