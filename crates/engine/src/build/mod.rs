//! Builds.

mod cache;
mod lend;
mod request;

pub use cache::Carried;
pub use lend::Lending;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::post;
use berth_build::{AgentCall, Context, Said};
use berth_names::{Digest, ImageRef};
use http::StatusCode;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::events::Kind;
use crate::images::list::Sizes;
use crate::images::spool;
use crate::progress::{self, Line, Progress};
use crate::registry_auth;
use crate::{Engine, Error, Json, Query, Result};

/// What a build says while nobody reads.
const QUEUE: usize = 64;
/// Characters of a digest that people see.
const SHORT: usize = 12;

/// Builds that can be cancelled by the id that their clients gave them.
pub type Running = Mutex<HashMap<String, CancellationToken>>;

pub fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/build", post(build))
        .route("/build/cache", post(cache::send).get(cache::fetch))
        .route("/build/cancel", post(cancel))
        .route("/build/prune", post(prune))
        .route("/build/secrets", post(lend::secrets))
        .route("/build/agent", post(lend::agent))
}

/// `POST /build`: the context is the body, or what `remote` names. What cannot be meant is refused
/// before it is read; what fails later is the stream's last object. The build ends with its client.
async fn build(
    State(engine): State<Arc<Engine>>,
    query: Query,
    request: Request,
) -> Result<Response> {
    let credentials = registry_auth::several(request.headers())?;
    let mut wanted = request::read(&engine, &query, credentials)?;
    let (calls, mut called) = mpsc::channel(QUEUE);
    wanted.lent = engine.lending.of(&query)?;
    wanted.lent.calls = Some(calls);
    let (quiet, id) = (query.flag("q"), query.text("buildid").to_owned());
    let remote = query.text("remote").to_owned();
    let body = request.into_body();
    progress::stream(move |progress| async move {
        let cancel = CancellationToken::new();
        // Whoever drops this stream has gone: the build cleans up by itself.
        let _ends_with_the_client = cancel.clone().drop_guard();
        let context = match remote.as_str() {
            "" => read(&engine, spool::receive(&engine, body).await?).await?,
            source => engine.builder.remote(source, &cancel).await?,
        };
        if !id.is_empty() {
            engine.builds.lock().insert(id.clone(), cancel.clone());
        }
        let (out, said) = mpsc::channel(QUEUE);
        let tags = wanted.tags.clone();
        let builder = engine.builder.clone();
        let building =
            tokio::spawn(async move { builder.build(wanted, context, out, cancel).await });
        let log = tokio::select! {
            log = tell(&engine, said, &progress, quiet) => log,
            // It ends with the build, as the other does.
            never = introduce(&engine, &mut called, &progress) => match never {},
        };
        let outcome = building
            .await
            .unwrap_or(Err(berth_build::Error::CutShort("the build")));
        engine.builds.lock().remove(&id);
        match outcome {
            Ok(image) => {
                finish(&engine, &image, &tags, &progress, quiet).await;
                Ok(())
            }
            Err(error) => {
                // Who asked for silence is told what was done when it failed.
                if !log.is_empty() {
                    progress.text(log).await;
                }
                Err(error.into())
            }
        }
    })
    .await
}

async fn read(engine: &Engine, archive: std::fs::File) -> Result<Context> {
    let spool = engine.images.spool().await?;
    let read = tokio::task::spawn_blocking(move || Context::read(archive, || Ok(spool)));
    let read = read
        .await
        .unwrap_or(Err(berth_build::Error::CutShort("reading the context")));
    Ok(read?)
}

/// Passes on what the build says, to its end. What a quiet build says is returned.
async fn tell(
    engine: &Engine,
    mut said: mpsc::Receiver<Said>,
    progress: &Progress,
    quiet: bool,
) -> String {
    let mut log = String::new();
    while let Some(said) = said.recv().await {
        match said {
            Said::Text(text) if quiet => log += &text,
            Said::Text(text) => progress.text(text).await,
            Said::Record(record) => progress.send(&json!({ "berth": record })).await,
            Said::Cache(made) => match engine.carried.announce(made) {
                Ok(object) => progress.send(&object).await,
                Err(error) => tracing::warn!(error = error.report(), "a cache is not fetched"),
            },
            Said::Image(id) => {
                let aux = Some(json!({ "ID": id }));
                progress
                    .send(&Line {
                        aux,
                        ..Line::default()
                    })
                    .await;
            }
        }
    }
    log
}

/// Tells the client of commands that call for its agents.
async fn introduce(
    engine: &Engine,
    called: &mut mpsc::Receiver<AgentCall>,
    progress: &Progress,
) -> Infallible {
    while let Some(call) = called.recv().await {
        match engine.lending.call(call) {
            Ok(object) => progress.send(&object).await,
            Err(error) => tracing::warn!(error = error.report(), "an agent is not called"),
        }
    }
    std::future::pending().await
}

async fn finish(
    engine: &Engine,
    image: &Digest,
    tags: &[ImageRef],
    progress: &Progress,
    quiet: bool,
) {
    if quiet {
        progress.text(format!("{image}\n")).await;
    } else {
        let short: String = image.hex().chars().take(SHORT).collect();
        progress.text(format!("Successfully built {short}\n")).await;
    }
    for tag in tags {
        if let Some(known) = engine.images.get(&image.to_string()) {
            let attributes = crate::images::attributes(&known, &tag.familiar());
            engine
                .events
                .publish(Kind::Image, "tag", image.to_string(), attributes);
        }
        if !quiet {
            let text = format!("Successfully tagged {}\n", tag.familiar());
            progress.text(text).await;
        }
    }
}

/// `POST /build/cancel`.
async fn cancel(State(engine): State<Arc<Engine>>, query: Query) -> Result<StatusCode> {
    let id = query.text("id");
    if id.is_empty() {
        return Err(Error::bad("build ID not provided"));
    }
    if let Some(build) = engine.builds.lock().get(id) {
        build.cancel();
    }
    Ok(StatusCode::OK)
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Pruned {
    caches_deleted: Vec<String>,
    /// Bytes.
    space_reclaimed: u64,
}

/// `POST /build/prune`: what builds keep for later ones. `until` keeps what was of use since.
async fn prune(State(engine): State<Arc<Engine>>, query: Query) -> Result<Json<Pruned>> {
    let filters = query.filters()?;
    filters.only(&[
        "until",
        "unused-for",
        "id",
        "parent",
        "type",
        "inuse",
        "shared",
        "private",
    ])?;
    let until = filters.values("until").next();
    let until = until.map(crate::query::moment).transpose()?;
    let until = until.and_then(|until| u64::try_from(until.unix_timestamp()).ok());
    let before = Sizes::count(&engine).await?;
    let deleted = engine.builder.prune(until, query.flag("all")).await?;
    let after = Sizes::count(&engine).await?;
    Ok(Json(Pruned {
        caches_deleted: deleted,
        space_reclaimed: before.used().saturating_sub(after.used()),
    }))
}
