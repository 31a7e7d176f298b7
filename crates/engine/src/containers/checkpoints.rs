//! `/containers/{name}/checkpoints`: an experimental part of Docker's API, served where the
//! configuration says so.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_standalone::CheckpointDraft;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Engine, Error, Json, Query, Result};

type Door = State<Arc<Engine>>;

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Wanted {
    #[serde(rename = "CheckpointID")]
    id: String,
    #[serde(rename = "CheckpointDir")]
    directory: String,
    #[serde(rename = "Exit")]
    ends: bool,
}

pub async fn create(
    State(engine): Door,
    Path(name): Path<String>,
    Json(wanted): Json<Wanted>,
) -> Result<Response> {
    experimental(&engine)?;
    let container = engine.containers.get(&name)?;
    let draft = CheckpointDraft {
        name: wanted.id,
        directory: directory(&wanted.directory),
        ends: wanted.ends,
    };
    container.checkpoint(draft).await?;
    Ok(StatusCode::CREATED.into_response())
}

pub async fn list(
    State(engine): Door,
    Path(name): Path<String>,
    query: Query,
) -> Result<Json<Value>> {
    experimental(&engine)?;
    let container = engine.containers.get(&name)?;
    let directory = directory(query.text("dir"));
    let names = engine.containers.checkpoints(&container, directory).await?;
    Ok(Json(
        names.iter().map(|name| json!({ "Name": name })).collect(),
    ))
}

pub async fn remove(
    State(engine): Door,
    Path((name, checkpoint)): Path<(String, String)>,
    query: Query,
) -> Result<StatusCode> {
    experimental(&engine)?;
    let container = engine.containers.get(&name)?;
    let draft = CheckpointDraft {
        name: checkpoint,
        directory: directory(query.text("dir")),
        ends: false,
    };
    let removed = engine.containers.remove_checkpoint(&container, &draft);
    removed.await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a container is to be started from, if not from its beginning.
pub fn asked(engine: &Engine, query: &Query) -> Result<Option<CheckpointDraft>> {
    let name = query.text("checkpoint");
    if name.is_empty() {
        return Ok(None);
    }
    if !engine.facts.experimental {
        return Err(Error::bad(
            "checkpoint is only supported in experimental mode: set experimental = true below \
             [docker] in berthd.toml",
        ));
    }
    Ok(Some(CheckpointDraft {
        name: name.to_owned(),
        directory: directory(query.text("checkpoint-dir")),
        ends: false,
    }))
}

fn directory(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

fn experimental(engine: &Engine) -> Result<()> {
    match engine.facts.experimental {
        true => Ok(()),
        false => Err(Error::NotImplemented(
            "This experimental feature is disabled by default. Set experimental = true below \
             [docker] in berthd.toml in order to enable it."
                .to_owned(),
        )),
    }
}
