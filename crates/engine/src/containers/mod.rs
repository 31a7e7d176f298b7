//! Containers.

use std::sync::Arc;

use axum::Router;

use crate::Engine;

/// How many containers there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Census {
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
}

pub fn routes() -> Router<Arc<Engine>> {
    Router::new()
}

pub fn census(_: &Engine) -> Census {
    Census::default()
}
