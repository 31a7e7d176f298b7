//! Making and removing networks.

use std::sync::Arc;

use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;

use super::request::Wanted;
use super::{prunable, tell};
use crate::{Engine, Json, Query, Result};

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Created {
    id: String,
    warning: String,
}

/// `POST /networks/create`.
pub async fn create(
    State(engine): State<Arc<Engine>>,
    Json(wanted): Json<Wanted>,
) -> Result<(StatusCode, Json<Created>)> {
    let created = engine.networks.create(wanted.network()?).await?;
    if let Ok(network) = engine.networks.find(created.id.as_str()) {
        tell(&engine, &network.definition, "create");
    }
    let answer = Created {
        id: created.id.to_string(),
        warning: created.warnings.join("; "),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

/// `DELETE /networks/{name}`; with `force`, which is Berth's own, also one whose plugin is gone.
pub async fn delete(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode> {
    let network = engine.networks.remove(&name, query.flag("force")).await?;
    tell(&engine, &network, "destroy");
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pruned {
    networks_deleted: Option<Vec<String>>,
}

/// `POST /networks/prune`: networks that nobody is on, less the predefined ones.
pub async fn prune(State(engine): State<Arc<Engine>>, query: Query) -> Result<Json<Pruned>> {
    let filters = query.filters()?;
    filters.only(&["label", "label!", "until"])?;
    let mut removed = Vec::new();
    for network in engine.networks.list() {
        if !prunable(&filters, &network)? {
            continue;
        }
        // One that a container joined meanwhile stays, and that is no failure.
        let id = network.definition.id.as_str();
        match engine.networks.remove(id, false).await {
            Ok(definition) => {
                tell(&engine, &definition, "destroy");
                removed.push(definition.name.clone());
            }
            Err(error) => tracing::info!(%error, "a network is not pruned"),
        }
    }
    Ok(Json(Pruned {
        networks_deleted: Some(removed).filter(|removed| !removed.is_empty()),
    }))
}
