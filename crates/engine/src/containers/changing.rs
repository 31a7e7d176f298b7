//! What changes one container.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_standalone::{HostConfig, StopWish};
use http::StatusCode;
use serde_json::json;

use super::checkpoints;
use crate::{Engine, Error, Json, Query, Result};

type Door = State<Arc<Engine>>;

const DONE: StatusCode = StatusCode::NO_CONTENT;

pub async fn start(
    State(engine): Door,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode> {
    let checkpoint = checkpoints::asked(&engine, &query)?;
    let container = engine.containers.get(&name)?;
    container.start_from(checkpoint).await?;
    Ok(DONE)
}

pub async fn stop(
    State(engine): Door,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode> {
    engine.containers.get(&name)?.stop(wish(&query)?).await?;
    Ok(DONE)
}

pub async fn restart(
    State(engine): Door,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode> {
    engine.containers.get(&name)?.restart(wish(&query)?).await?;
    Ok(DONE)
}

fn wish(query: &Query) -> Result<StopWish> {
    Ok(StopWish {
        signal: Some(query.text("signal").to_owned()).filter(|signal| !signal.is_empty()),
        seconds: query.number("t")?,
    })
}

pub async fn kill(
    State(engine): Door,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode> {
    engine
        .containers
        .get(&name)?
        .kill(query.text("signal"))
        .await?;
    Ok(DONE)
}

pub async fn pause(State(engine): Door, Path(name): Path<String>) -> Result<StatusCode> {
    engine.containers.get(&name)?.pause().await?;
    Ok(DONE)
}

pub async fn unpause(State(engine): Door, Path(name): Path<String>) -> Result<StatusCode> {
    engine.containers.get(&name)?.unpause().await?;
    Ok(DONE)
}

pub async fn rename(
    State(engine): Door,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode> {
    let container = engine.containers.get(&name)?;
    engine
        .containers
        .rename(&container, query.text("name"))
        .await?;
    Ok(DONE)
}

/// Sets the size of the terminal, in characters.
pub async fn resize(
    State(engine): Door,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode> {
    let (width, height) = size(&query)?;
    let run = engine.containers.get(&name)?.running()?;
    run.resize(width, height).await?;
    Ok(StatusCode::OK)
}

pub fn size(query: &Query) -> Result<(u16, u16)> {
    let number = |key| match query.number::<u16>(key)? {
        Some(number) => Ok(number),
        None => Err(Error::bad(format!("invalid resize {key}: it is missing"))),
    };
    Ok((number("w")?, number("h")?))
}

pub async fn update(
    State(engine): Door,
    Path(name): Path<String>,
    Json(wanted): Json<HostConfig>,
) -> Result<Response> {
    let container = engine.containers.get(&name)?;
    container
        .update(wanted.limits, Some(wanted.restart_policy))
        .await?;
    Ok(Json(json!({ "Warnings": [] })).into_response())
}

pub async fn remove(
    State(engine): Door,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode> {
    if query.flag("link") {
        return Err(Error::bad(
            "links are not supported: use a network of your own",
        ));
    }
    let container = engine.containers.get(&name)?;
    container
        .remove(query.flag("force"), query.flag("v"))
        .await?;
    Ok(DONE)
}
