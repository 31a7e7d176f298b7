//! Containers that come to a network and leave it.

use std::sync::Arc;

use axum::extract::{Path, State};
use berth_standalone::EndpointSettings;
use http::StatusCode;
use serde::Deserialize;

use crate::{Engine, Json, Result};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Connect {
    container: String,
    #[serde(default)]
    endpoint_config: EndpointSettings,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Disconnect {
    container: String,
    #[serde(default)]
    force: bool,
}

/// `POST /networks/{name}/connect`.
pub async fn connect(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    Json(wanted): Json<Connect>,
) -> Result<StatusCode> {
    let container = engine.containers.get(&wanted.container)?;
    container.connect(&name, wanted.endpoint_config).await?;
    Ok(StatusCode::OK)
}

/// `POST /networks/{name}/disconnect`.
pub async fn disconnect(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    Json(wanted): Json<Disconnect>,
) -> Result<StatusCode> {
    let container = engine.containers.get(&wanted.container)?;
    container.disconnect(&name, wanted.force).await?;
    Ok(StatusCode::OK)
}
