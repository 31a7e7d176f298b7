//! Volumes.

use std::sync::Arc;

use axum::Router;

use crate::{Engine, Result};

pub fn routes() -> Router<Arc<Engine>> {
    Router::new()
}

/// What `/system/df` says of volumes.
pub async fn usage(_: &Engine) -> Result<Vec<serde_json::Value>> {
    Ok(Vec::new())
}
