//! Networks.

mod change;
mod describe;
mod member;
mod request;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use berth_network::{NetworkDefinition, NetworkInfo};

use crate::events::Kind;
use crate::query::moment;
use crate::{Engine, Error, Filters, Json, Query, Result};

use self::describe::{Shown, scope};

pub fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(change::create))
        .route("/networks/prune", post(change::prune))
        .route("/networks/{name}/connect", post(member::connect))
        .route("/networks/{name}/disconnect", post(member::disconnect))
        .route("/networks/{name}", get(inspect).delete(change::delete))
}

/// `GET /networks`.
async fn list(State(engine): State<Arc<Engine>>, query: Query) -> Result<Json<Vec<Shown>>> {
    let filters = query.filters()?;
    filters.only(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let kinds: Vec<_> = filters.values("type").collect();
    if let Some(kind) = (kinds.iter()).find(|kind| !["custom", "builtin"].contains(kind)) {
        return Err(Error::bad(format!("invalid filter: 'type'='{kind}'")));
    }
    let dangling = filters.flag("dangling")?;
    let chosen = engine.networks.list().into_iter().filter(|network| {
        let unused = !network.definition.predefined() && network.endpoints.is_empty();
        accepted(&filters, &network.definition) && dangling.is_none_or(|wanted| wanted == unused)
    });
    Ok(Json(
        chosen.map(|network| Shown::listed(&network)).collect(),
    ))
}

fn accepted(filters: &Filters, network: &NetworkDefinition) -> bool {
    let kind = if network.predefined() {
        "builtin"
    } else {
        "custom"
    };
    filters.exact("driver", &network.driver.to_string())
        && filters.any("id", |id| network.id.as_str().starts_with(id))
        && filters.any("name", |name| network.name.contains(name))
        && filters.exact("scope", scope(network))
        && filters.exact("type", kind)
        && filters.labels("label", &network.labels)
}

/// `GET /networks/{name}`.
async fn inspect(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Json<Shown>> {
    let found = engine.networks.find(&name)?;
    let wanted = query.text("scope");
    if !wanted.is_empty() && wanted != scope(&found.definition) {
        return Err(Error::NotFound(format!("network {name} not found")));
    }
    Ok(Json(Shown::whole(&found)))
}

/// What a pruning may take of the networks that nobody is on.
fn prunable(filters: &Filters, network: &NetworkInfo) -> Result<bool> {
    let definition = &network.definition;
    let mut unwanted = filters.values("label!");
    let labelled = |wanted: &str| match wanted.split_once('=') {
        Some((key, value)) => definition
            .labels
            .get(key)
            .is_some_and(|found| found == value),
        None => definition.labels.contains_key(wanted),
    };
    let old = match filters.values("until").next() {
        Some(until) => i128::from(definition.created) < moment(until)?.unix_timestamp_nanos(),
        None => true,
    };
    Ok(!definition.predefined()
        && network.endpoints.is_empty()
        && old
        && filters.labels("label", &definition.labels)
        && !unwanted.any(labelled))
}

/// Tells that something happened to a network.
fn tell(engine: &Engine, network: &NetworkDefinition, action: &str) {
    let attributes = BTreeMap::from([
        ("name".to_owned(), network.name.clone()),
        ("type".to_owned(), network.driver.to_string()),
    ]);
    let id = network.id.as_str();
    engine.events.publish(Kind::Network, action, id, attributes);
}
