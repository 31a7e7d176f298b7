//! `/system/df`: what takes how much.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use serde_json::Value;

use crate::images::Users;
use crate::images::list::{self, Sizes, Summary};
use crate::{ApiVersion, Engine, Error, Filters, Json, Query, Result, containers, volumes};

/// Everything that was not asked for is left out.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Usage {
    #[serde(skip_serializing_if = "Option::is_none")]
    layers_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<Vec<Summary>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    containers: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_cache: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    builder_size: Option<u64>,
}

pub async fn df(
    State(engine): State<Arc<Engine>>,
    version: ApiVersion,
    query: Query,
) -> Result<Json<Usage>> {
    const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];
    if let Some(other) = query.all("type").find(|kind| !KINDS.contains(kind)) {
        return Err(Error::bad(format!("unknown object type: {other}")));
    }
    let wants = |kind: &str| {
        let mut given = query.all("type").peekable();
        given.peek().is_none() || given.any(|wanted| wanted == kind)
    };
    let mut usage = Usage::default();
    if wants("image") {
        let sizes = Sizes::count(&engine).await?;
        usage.layers_size = Some(sizes.total());
        usage.images = Some(images(&engine, &sizes, version)?);
    }
    if wants("container") {
        usage.containers = Some(containers::usage(&engine).await?);
    }
    if wants("volume") {
        usage.volumes = Some(volumes::usage(&engine).await?);
    }
    if wants("build-cache") {
        usage.build_cache = Some(Vec::new());
        usage.builder_size = (version < ApiVersion::new(42)).then_some(0);
    }
    Ok(Json(usage))
}

fn images(engine: &Engine, sizes: &Sizes, version: ApiVersion) -> Result<Vec<Summary>> {
    let images = list::choose(engine, &Filters::default(), false)?;
    let users = Users::now(engine);
    let summaries = images.iter().map(|image| {
        let mut summary = list::summary(image, sizes, version, true);
        summary.set_containers(users.of(&image.id).count());
        summary
    });
    Ok(summaries.collect())
}
