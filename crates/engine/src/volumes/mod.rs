//! Volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_standalone::{Volume, VolumeDraft};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::containers::time;
use crate::events::Kind;
use crate::{Engine, Filters, Json, Query, Result};

type Door = State<Arc<Engine>>;

pub fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove))
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Wanted {
    name: String,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

async fn create(State(engine): Door, Json(wanted): Json<Wanted>) -> Result<Response> {
    let draft = VolumeDraft {
        name: wanted.name,
        driver: wanted.driver,
        labels: wanted.labels,
        options: wanted.driver_opts,
    };
    let (volume, is_new) = engine.containers.volumes().create(draft).await?;
    if is_new {
        tell(&engine, &volume, "create");
    }
    Ok((StatusCode::CREATED, Json(describe(&volume))).into_response())
}

async fn list(State(engine): Door, query: Query) -> Result<Json<Value>> {
    let filters = query.filters()?;
    filters.only(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.flag("dangling")?;
    let mut found = engine.containers.volumes().all();
    found.retain(|volume| {
        let is_dangling = || engine.containers.users_of(&volume.name).is_empty();
        takes(&filters, volume) && dangling.is_none_or(|wanted| wanted == is_dangling())
    });
    let told: Vec<Value> = found.iter().map(|volume| describe(volume)).collect();
    Ok(Json(json!({ "Volumes": told, "Warnings": null })))
}

fn takes(filters: &Filters, volume: &Volume) -> bool {
    filters.any("name", |part| volume.name.contains(part))
        && filters.exact("driver", &volume.driver)
        && filters.labels("label", &volume.labels)
}

async fn inspect(State(engine): Door, Path(name): Path<String>) -> Result<Json<Value>> {
    Ok(Json(describe(&*engine.containers.volumes().get(&name)?)))
}

async fn remove(State(engine): Door, Path(name): Path<String>, query: Query) -> Result<StatusCode> {
    let volume = match engine.containers.volumes().get(&name) {
        Err(_) if query.flag("force") => return Ok(StatusCode::NO_CONTENT),
        found => found?,
    };
    engine.containers.remove_volume(&name).await?;
    tell(&engine, &volume, "destroy");
    Ok(StatusCode::NO_CONTENT)
}

/// Those that nobody named and nobody uses; with the filter `all` also those with names.
async fn prune(State(engine): Door, query: Query) -> Result<Json<Value>> {
    let filters = query.filters()?;
    filters.only(&["all", "label", "label!"])?;
    let all = filters.flag("all")?.unwrap_or(false);
    let (mut gone, mut freed) = (Vec::new(), 0);
    for volume in engine.containers.volumes().all() {
        let spared = filters.contains("label!") && filters.labels("label!", &volume.labels);
        if !(all || volume.anonymous) || spared || !filters.labels("label", &volume.labels) {
            continue;
        }
        let size = size(volume.mountpoint.clone()).await;
        // In use: it stays.
        if engine.containers.remove_volume(&volume.name).await.is_ok() {
            tell(&engine, &volume, "destroy");
            gone.push(volume.name.clone());
            freed += size;
        }
    }
    let gone = if gone.is_empty() {
        Value::Null
    } else {
        json!(gone)
    };
    Ok(Json(
        json!({ "VolumesDeleted": gone, "SpaceReclaimed": freed }),
    ))
}

/// Allocated bytes below a directory.
async fn size(path: std::path::PathBuf) -> u64 {
    tokio::task::spawn_blocking(move || count(&path))
        .await
        .unwrap_or(0)
}

fn count(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else {
            continue;
        };
        total += found.blocks() * 512;
        if found.is_dir() {
            total += count(&entry.path());
        }
    }
    total
}

fn tell(engine: &Engine, volume: &Volume, action: &str) {
    let driver = BTreeMap::from([("driver".to_owned(), volume.driver.clone())]);
    engine
        .events
        .publish(Kind::Volume, action, volume.name.clone(), driver);
}

fn describe(volume: &Volume) -> Value {
    json!({
        "Name": volume.name,
        "Driver": volume.driver,
        "Mountpoint": volume.mountpoint.display().to_string(),
        "CreatedAt": time(volume.created_at),
        "Labels": volume.labels,
        "Options": volume.options,
        "Scope": "local",
    })
}

/// What `/system/df` says of volumes.
pub async fn usage(engine: &Engine) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for volume in engine.containers.volumes().all() {
        let users = engine.containers.users_of(&volume.name).len();
        let mut told = describe(&volume);
        told["UsageData"] = json!({
            "Size": size(volume.mountpoint.clone()).await,
            "RefCount": users,
        });
        all.push(told);
    }
    Ok(all)
}
