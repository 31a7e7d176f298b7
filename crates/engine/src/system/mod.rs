//! What concerns the whole daemon.

mod auth;
mod df;
mod host;
mod info;
mod ping;
mod version;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::Engine;

pub fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/_ping", get(ping::ping))
        .route("/version", get(version::version))
        .route("/info", get(info::info))
        .route("/auth", post(auth::auth))
        .route("/system/df", get(df::df))
}
