//! `POST /containers/prune`.

use std::sync::Arc;

use axum::extract::State;
use berth_standalone::Phase;
use serde_json::{Value, json};

use crate::query::moment;
use crate::{Engine, Json, Query, Result};

pub async fn prune(State(engine): State<Arc<Engine>>, query: Query) -> Result<Json<Value>> {
    let filters = query.filters()?;
    filters.only(&["until", "label", "label!"])?;
    let until = filters.values("until").next().map(moment).transpose()?;
    let until = until.map(|until| until.unix_timestamp_nanos());
    let (mut gone, mut freed) = (Vec::new(), 0);
    for container in engine.containers.all() {
        let record = container.view();
        let ended = matches!(record.phase, Phase::Created | Phase::Exited | Phase::Dead);
        let old = until.is_none_or(|until| i128::from(record.created_at) < until);
        let labels = &record.config.labels;
        let spared = filters.contains("label!") && filters.labels("label!", labels);
        if !ended || !old || spared || !filters.labels("label", labels) {
            continue;
        }
        let usage = engine
            .runtime
            .layer_usage(&record.id)
            .await
            .unwrap_or_default();
        // One that was started meanwhile stays.
        if container.remove(false, false).await.is_ok() {
            gone.push(record.id.to_string());
            freed += usage.bytes;
        }
    }
    let gone = if gone.is_empty() {
        Value::Null
    } else {
        json!(gone)
    };
    Ok(Json(
        json!({ "ContainersDeleted": gone, "SpaceReclaimed": freed }),
    ))
}
