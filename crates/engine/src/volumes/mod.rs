//! Volumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_standalone::{ShownVolume, Volume, VolumeDraft};
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
        anonymous: false,
    };
    let (volume, is_new) = engine.containers.volumes().create(draft).await?;
    if is_new {
        tell(&engine, &volume, "create");
    }
    let shown = engine.containers.volumes().find(&volume.name).await;
    let told = match shown {
        Ok(shown) => describe(&shown),
        // Made it is; what its plugin says of it is not known yet.
        Err(_) => describe_record(&volume),
    };
    Ok((StatusCode::CREATED, Json(told)).into_response())
}

async fn list(State(engine): Door, query: Query) -> Result<Json<Value>> {
    let filters = query.filters()?;
    filters.only(&["dangling", "driver", "label", "name"])?;
    let dangling = filters.flag("dangling")?;
    let (mut found, warnings) = engine.containers.volumes().list().await;
    found.retain(|shown| {
        let volume = &shown.volume;
        let is_dangling = || engine.containers.users_of(&volume.name).is_empty();
        takes(&filters, volume) && dangling.is_none_or(|wanted| wanted == is_dangling())
    });
    let told: Vec<Value> = found.iter().map(describe).collect();
    let warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
    Ok(Json(json!({ "Volumes": told, "Warnings": warnings })))
}

fn takes(filters: &Filters, volume: &Volume) -> bool {
    filters.any("name", |part| volume.name.contains(part))
        && filters.exact("driver", &volume.driver)
        && filters.labels("label", &volume.labels)
}

async fn inspect(State(engine): Door, Path(name): Path<String>) -> Result<Json<Value>> {
    let found = engine.containers.volumes().find(&name).await?;
    Ok(Json(describe(&found)))
}

async fn remove(State(engine): Door, Path(name): Path<String>, query: Query) -> Result<StatusCode> {
    let force = query.flag("force");
    match engine.containers.remove_volume(&name, force).await {
        Ok(volume) => tell(&engine, &volume, "destroy"),
        Err(missing) if force && missing.kind() == berth_standalone::Kind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Those that nobody named and nobody uses; with the filter `all` also those with names.
async fn prune(State(engine): Door, query: Query) -> Result<Json<Value>> {
    let filters = query.filters()?;
    filters.only(&["all", "label", "label!"])?;
    let all = filters.flag("all")?.unwrap_or(false);
    let (mut gone, mut freed) = (Vec::new(), 0);
    for volume in engine.containers.volumes().all() {
        // What plugins have is theirs to tidy.
        if volume.is_plugged() {
            continue;
        }
        let spared = filters.contains("label!") && filters.labels("label!", &volume.labels);
        if !(all || volume.anonymous) || spared || !filters.labels("label", &volume.labels) {
            continue;
        }
        let size = size(volume.mountpoint.clone()).await;
        // In use: it stays.
        if engine
            .containers
            .remove_volume(&volume.name, false)
            .await
            .is_ok()
        {
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

fn describe(shown: &ShownVolume) -> Value {
    let mut told = describe_record(&shown.volume);
    told["Scope"] = json!(shown.scope);
    if !shown.status.is_empty() {
        told["Status"] = json!(shown.status);
    }
    told
}

fn describe_record(volume: &Volume) -> Value {
    let mut told = json!({
        "Name": volume.name,
        "Driver": volume.driver,
        "Mountpoint": volume.mountpoint.display().to_string(),
        "Labels": volume.labels,
        "Options": volume.options,
        "Scope": "local",
    });
    // Of one that only its plugin knows nobody may know when it was made.
    if volume.created_at != 0 {
        told["CreatedAt"] = json!(time(volume.created_at));
    }
    told
}

/// What `/system/df` says of volumes.
pub async fn usage(engine: &Engine) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for shown in engine.containers.volumes().list().await.0 {
        let volume = &shown.volume;
        let users = engine.containers.users_of(&volume.name).len();
        let mut told = describe(&shown);
        // -1 where it cannot be counted: what a plugin has may be as large as it likes, and away.
        let size = match volume.is_plugged() {
            true => -1,
            false => i64::try_from(size(volume.mountpoint.clone()).await).unwrap_or(-1),
        };
        told["UsageData"] = json!({ "Size": size, "RefCount": users });
        all.push(told);
    }
    Ok(all)
}
