//! `GET /images/{name}/history`.

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::describe::document;
use super::list::Sizes;
use super::name;
use crate::{Engine, Json, Result};

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Step {
    id: String,
    created: i64,
    created_by: String,
    tags: Option<Vec<String>>,
    size: u64,
    comment: String,
}

/// The steps that made an image, the last one first. Only it has an id: what was in between is not
/// kept.
pub async fn history(engine: &Engine, name: &str) -> Result<Json<Vec<Step>>> {
    let image = name::find(engine, name)?;
    let document = document(engine, &image).await?;
    let sizes = Sizes::count(engine).await?;
    let told = document["history"].as_array().cloned().unwrap_or_default();
    let mut layers = image.layers.iter();
    let mut steps: Vec<Step> = told
        .iter()
        .map(|step| {
            let layer = match step["empty_layer"].as_bool() {
                Some(true) => None,
                _ => layers.next(),
            };
            told_step(step, layer.map_or(0, |layer| sizes.of_layer(layer)))
        })
        .collect();
    // Layers that the history does not tell of.
    for layer in layers {
        steps.push(told_step(&Value::Null, sizes.of_layer(layer)));
    }
    if let Some(last) = steps.last_mut() {
        last.id = image.id.to_string();
        last.tags = Some(name::all_familiar(&image.repo_tags)).filter(|tags| !tags.is_empty());
    }
    steps.reverse();
    Ok(Json(steps))
}

fn told_step(step: &Value, size: u64) -> Step {
    let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
    let created = OffsetDateTime::parse(&text("created"), &Rfc3339);
    Step {
        id: "<missing>".to_owned(),
        created: created.map_or(0, OffsetDateTime::unix_timestamp),
        created_by: text("created_by"),
        tags: None,
        size,
        comment: text("comment"),
    }
}
