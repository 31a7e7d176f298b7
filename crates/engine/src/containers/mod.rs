//! Containers.

mod archive;
mod attach;
mod changes;
mod changing;
mod checkpoints;
mod commit;
pub mod create;
mod describe;
pub mod events;
mod export;
mod inspect;
mod list;
mod logs;
mod prune;
mod stats;
pub mod streams;
mod top;
mod wait;
mod websocket;

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, delete, get, post};
use berth_standalone::Phase;

pub use changing::size;
pub use describe::time;
pub use streams::{Parted, Sides, serve as serve_streams};

use crate::{Engine, Result};

/// How many containers there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Census {
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
}

pub fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/containers/json", get(list::list))
        .route("/containers/create", post(create::create))
        .route("/containers/prune", post(prune::prune))
        .route("/containers/{name}/json", any(inspect::inspect))
        .route("/containers/{name}/start", post(changing::start))
        .route("/containers/{name}/stop", post(changing::stop))
        .route("/containers/{name}/restart", post(changing::restart))
        .route("/containers/{name}/kill", post(changing::kill))
        .route("/containers/{name}/pause", post(changing::pause))
        .route("/containers/{name}/unpause", post(changing::unpause))
        .route("/containers/{name}/rename", post(changing::rename))
        .route("/containers/{name}/update", post(changing::update))
        .route("/containers/{name}/resize", post(changing::resize))
        .route(
            "/containers/{name}/checkpoints",
            get(checkpoints::list).post(checkpoints::create),
        )
        .route(
            "/containers/{name}/checkpoints/{checkpoint}",
            delete(checkpoints::remove),
        )
        .route("/containers/{name}/wait", post(wait::wait))
        .route("/containers/{name}/attach", post(attach::attach))
        .route("/containers/{name}/attach/ws", get(websocket::attach))
        .route("/containers/{name}/logs", get(logs::logs))
        .route("/containers/{name}/top", get(top::top))
        .route("/containers/{name}/stats", get(stats::stats))
        .route(
            "/containers/{name}/archive",
            get(archive::get).head(archive::head).put(archive::put),
        )
        .route("/containers/{name}/changes", get(changes::list))
        .route("/containers/{name}/export", get(export::export))
        .route("/commit", post(commit::commit))
        .route("/containers/{name}", delete(changing::remove))
}

pub fn census(engine: &Engine) -> Census {
    let mut census = Census::default();
    for container in engine.containers.all() {
        match container.view().phase {
            Phase::Running => census.running += 1,
            Phase::Paused => census.paused += 1,
            _ => census.stopped += 1,
        }
    }
    census
}

/// What `/system/df` says of containers.
pub async fn usage(engine: &Engine) -> Result<Vec<serde_json::Value>> {
    let mut all = Vec::new();
    for container in engine.containers.all() {
        let record = container.view();
        let written = engine.runtime.layer_usage(&record.id).await;
        let image = engine.images.get(&record.image_id.to_string());
        let mut told = list::summary(&record, berth_lifecycle::record::now());
        told["SizeRw"] = written.map_or(0, |usage| usage.bytes).into();
        told["SizeRootFs"] = image.map_or(0, |image| image.size).into();
        all.push(told);
    }
    Ok(all)
}
