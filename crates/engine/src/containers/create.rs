//! `POST /containers/create`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use berth_images::Image;
use berth_standalone::{Config, Draft, HostConfig, NetworkingConfig};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::images;
use crate::{Engine, Error, Json, Query, Result};

#[derive(Deserialize)]
pub struct Wanted {
    #[serde(flatten)]
    config: Config,
    #[serde(rename = "HostConfig", default)]
    host: HostConfig,
    #[serde(rename = "NetworkingConfig", default)]
    networking: NetworkingConfig,
}

pub async fn create(
    State(engine): State<Arc<Engine>>,
    query: Query,
    Json(wanted): Json<Wanted>,
) -> Result<Response> {
    let draft = Draft {
        name: query.text("name").to_owned(),
        config: wanted.config,
        host: wanted.host,
        networking: wanted.networking,
    };
    if draft.config.image.is_empty() {
        return Err(Error::bad(
            "config cannot be empty in order to create a container",
        ));
    }
    let image = images::find(&engine, &draft.config.image)?;
    check_platform(&engine, &image, &draft.config.image, query.text("platform"))?;
    let (container, warnings) = engine.containers.create(draft, &image.id).await?;
    let answer = json!({ "Id": container.view().id.to_string(), "Warnings": warnings });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// An image for another platform than the one that is asked for is none: clients pull it then.
fn check_platform(engine: &Engine, image: &Image, name: &str, wanted: &str) -> Result<()> {
    let Some(told) = image.config.platform().filter(|_| !wanted.is_empty()) else {
        return Ok(());
    };
    let wanted = images::platform(engine, wanted)?;
    let wanted = wanted.unwrap_or_else(|| engine.images.platform().clone());
    match wanted.runs(&told) {
        true => Ok(()),
        false => Err(Error::NotFound(format!(
            "No such image: {name} for {wanted}: it is here for {told}"
        ))),
    }
}
