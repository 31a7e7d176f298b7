//! Images.

pub mod changes;
mod delete;
pub mod describe;
mod distribution;
mod failure;
mod history;
mod import;
pub mod list;
mod load;
pub mod name;
mod prune;
mod pull;
mod push;
mod save;
mod search;
pub mod spool;
mod tag;
mod users;

pub use users::Users;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_images::Image;
use http::Method;

pub use name::{find, parse as parse_name};
pub use pull::platform;

use crate::registry_auth::RegistryAuth;
use crate::{ApiVersion, Engine, Error, Query, Result};

pub fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/images/json", get(list::list))
        .route("/images/create", post(pull::create))
        .route("/images/get", get(save::many))
        .route("/images/load", post(load::load))
        .route("/images/prune", post(prune::prune))
        .route("/images/search", get(search::search))
        .route("/distribution/{*rest}", get(distribution::distribution))
        .route("/images/{*rest}", axum::routing::any(of_one))
}

/// What is asked of one image: its name has slashes, so that the end of the path says what it is.
async fn of_one(
    State(engine): State<Arc<Engine>>,
    Path(rest): Path<String>,
    version: ApiVersion,
    query: Query,
    RegistryAuth(credentials): RegistryAuth,
    request: Request,
) -> Result<Response> {
    let (name, action) = rest.rsplit_once('/').unwrap_or((&rest, ""));
    match (request.method(), action) {
        (&Method::GET | &Method::HEAD, "json") => describe::inspect(&engine, name, version)
            .await
            .map(IntoResponse::into_response),
        (&Method::GET | &Method::HEAD, "history") => history::history(&engine, name)
            .await
            .map(IntoResponse::into_response),
        (&Method::GET | &Method::HEAD, "get") => {
            save::save(&engine, &[name], query.flag("berth-attestations"))
        }
        (&Method::POST, "push") => push::push(engine, name, &query, credentials).await,
        (&Method::POST, "tag") => tag::tag(&engine, name, &query)
            .await
            .map(IntoResponse::into_response),
        (&Method::DELETE, _) => delete::delete(&engine, &rest, &query)
            .await
            .map(IntoResponse::into_response),
        _ => Err(Error::NoRoute),
    }
}

/// What events say of an image.
pub fn attributes(image: &Image, name: &str) -> BTreeMap<String, String> {
    let mut attributes = image.config.labels().clone();
    if !name.is_empty() {
        attributes.insert("name".to_owned(), name.to_owned());
    }
    attributes
}
