//! Caches in directories of `berth build`'s, beside Docker's protocol: an OCI layout comes before the
//! build, and another is fetched after it.
//!
//! ```text
//! POST /build/cache (archive)                              ─►  {"Id": token}
//! POST /build?berth-cache-from=type=local,id=token&…       ─►  … {"berth-cache": {"target": …, "ticket": …}} …
//! GET /build/cache?ticket=…                                ─►  archive
//! ```

use std::fs::File;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use berth_build::{CacheSource, CacheTarget, Layout, LayoutFile};
use berth_names::ImageRef;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::lend::Waiting;
use crate::images::{parse_name, spool};
use crate::{Engine, Error, Json, Query, Result};

const TAR: http::HeaderValue = http::HeaderValue::from_static("application/x-tar");

/// Layouts that wait for their build, and those that wait for their client.
#[derive(Default)]
pub struct Carried {
    sent: Waiting<Layout>,
    made: Waiting<File>,
}

impl Carried {
    /// What the client is told of a layout that was made for it.
    pub fn announce(&self, made: LayoutFile) -> Result<Value> {
        let ticket = self.made.put(made.file)?;
        Ok(json!({ "berth-cache": { "target": made.target, "ticket": ticket } }))
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Taken {
    id: String,
}

pub async fn send(
    State(engine): State<Arc<Engine>>,
    request: Request,
) -> Result<(StatusCode, Json<Taken>)> {
    let archive = spool::receive(&engine, request.into_body()).await?;
    let read = tokio::task::spawn_blocking(move || Layout::read(archive));
    let cut_short = berth_build::Error::CutShort("reading a cache");
    let layout = read.await.unwrap_or(Err(cut_short))?;
    let id = engine.carried.sent.put(layout)?;
    Ok((StatusCode::CREATED, Json(Taken { id })))
}

pub async fn fetch(State(engine): State<Arc<Engine>>, query: Query) -> Result<Response> {
    let found = engine.carried.made.take(query.text("ticket"));
    let file = found.ok_or_else(|| Error::NotFound("no cache waits for this".to_owned()))?;
    let stream = ReaderStream::new(tokio::fs::File::from_std(file));
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(CONTENT_TYPE, TAR);
    Ok(response)
}

/// Where a build's cache comes from. The stock client names images, of which those that are here are
/// looked at first.
pub fn sources(engine: &Engine, query: &Query, images: Vec<String>) -> Result<Vec<CacheSource>> {
    let mut sources = Vec::new();
    for text in query.all("berth-cache-from") {
        let layout = |token: &str| {
            let gone = "the cache that was sent for this build is not here any more: send it again";
            let found = engine.carried.sent.take(token);
            found.ok_or_else(|| berth_build::Error::Invalid(gone.to_owned()))
        };
        sources.push(CacheSource::parse(text, layout)?);
    }
    for name in images.iter().filter(|name| !name.is_empty()) {
        let reference: ImageRef = parse_name(name)?;
        sources.push(CacheSource::Image(reference));
    }
    Ok(sources)
}

pub fn targets(query: &Query) -> Result<Vec<CacheTarget>> {
    let all = query.all("berth-cache-to");
    all.map(|text| Ok(CacheTarget::parse(text)?)).collect()
}
