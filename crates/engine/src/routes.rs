//! Which endpoint answers what.

use std::sync::Arc;

use axum::Router;
use axum::routing::any;

use crate::{Engine, Error, build, containers, events, exec, images, networks, system, volumes};

pub fn all(engine: Arc<Engine>) -> Router {
    Router::new()
        .merge(system::routes())
        .merge(events::routes())
        .merge(images::routes())
        .merge(containers::routes())
        .merge(exec::routes())
        .merge(networks::routes())
        .merge(volumes::routes())
        .merge(build::routes())
        .merge(swarm())
        .fallback(|| async { Error::NoRoute })
        .method_not_allowed_fallback(|| async { Error::NoRoute })
        .with_state(engine)
}

/// What only managers of a swarm answer: this never is one.
fn swarm() -> Router<Arc<Engine>> {
    let mut router = Router::new();
    for kind in ["swarm", "nodes", "services", "tasks", "secrets", "configs"] {
        router = router
            .route(&format!("/{kind}"), any(no_swarm))
            .route(&format!("/{kind}/{{*rest}}"), any(no_swarm));
    }
    router
}

async fn no_swarm() -> Error {
    Error::Unavailable(
        "This node is not a swarm manager. Berth runs no swarm: for containers over many \
         machines, let Kubernetes use it through the CRI.",
    )
}
