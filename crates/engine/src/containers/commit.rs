//! `POST /commit`: an image of what a container has written.

use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use berth_images::Section;
use berth_names::{Digest, ImageRef};
use berth_standalone::{Container, Phase};
use berth_unpack::pack_layer;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::changes::{below_root, upper};
use super::inspect;
use crate::events::Kind;
use crate::images::changes::Changes;
use crate::images::{self, describe, name};
use crate::pieces::blocking;
use crate::{Engine, Error, Json, Query, Result, body};

/// Largest configuration that a client sends along.
const MOST_CONFIG: usize = 1 << 20;
const BUFFER: usize = 256 << 10;

/// What of a container's configuration goes into an image.
const KEPT: [&str; 13] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Healthcheck",
    "ArgsEscaped",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "Shell",
    "OnBuild",
];

struct Wanted {
    names: Vec<ImageRef>,
    author: String,
    comment: String,
    pause: bool,
    /// What the client says of the configuration, changes included.
    config: Value,
}

pub async fn commit(
    State(engine): State<Arc<Engine>>,
    query: Query,
    request: Request,
) -> Result<Response> {
    let container = engine.containers.get(query.text("container"))?;
    let names = match (query.text("repo"), query.text("tag")) {
        ("", _) => Vec::new(),
        (repository, "") => vec![name::parse(repository)?],
        (repository, tag) => vec![name::parse(&format!("{repository}:{tag}"))?],
    };
    let changes = Changes::parse(query.all("changes"))?;
    let sent = body::receive(request.into_body(), MOST_CONFIG).await?;
    let mut config = match sent.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&sent).map_err(Error::BadJson)?,
    };
    changes.apply(&mut config);
    let wanted = Wanted {
        names,
        author: query.text("author").to_owned(),
        comment: query.text("comment").to_owned(),
        pause: matches!(query.text("pause"), "") || query.flag("pause"),
        config,
    };
    // To its end, whether or not somebody waits for it: the container is paused meanwhile.
    let made = tokio::spawn(async move { make(&engine, &container, wanted).await });
    let panicked = Error::Panicked {
        operation: "committing a container",
    };
    let id = made.await.unwrap_or(Err(panicked))?;
    let answer = json!({ "Id": id.to_string() });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

async fn make(engine: &Arc<Engine>, container: &Arc<Container>, wanted: Wanted) -> Result<Digest> {
    let record = container.view();
    let image = engine.images.get(&record.image_id.to_string());
    let image = image.ok_or_else(|| name::missing(&record.config.image))?;
    let mut intake = engine.images.intake(Some(&image)).await?;
    let mut document = describe::document(engine, &image).await?;
    let archive = layer(engine, container, wanted.pause).await?;
    let is_empty = archive.is_none();
    if let Some(archive) = archive {
        let archive = Section::whole(archive).map_err(|source| Error::Io {
            operation: "cannot read the layer",
            source,
        })?;
        intake.layer(archive).await?;
    }
    let present = inspect::config(engine, &record);
    let config = configuration(&wanted.config, &present);
    let created_by = command(&present["Cmd"]);
    write(&mut document, &wanted, created_by, config, is_empty);
    document["rootfs"] = json!({ "type": "layers", "diff_ids": intake.diff_ids() });
    let bytes = Bytes::from(document.to_string());
    let id = intake.finish(bytes, None, &wanted.names).await?;
    tell(engine, container, &wanted, &id);
    Ok(id)
}

/// What the container has written, as an archive; `None` if that is nothing.
async fn layer(
    engine: &Arc<Engine>,
    container: &Arc<Container>,
    pause: bool,
) -> Result<Option<File>> {
    // One that does not run, or was paused before, is left as it is.
    let paused =
        pause && container.view().phase == Phase::Running && container.pause().await.is_ok();
    let packed = pack(engine, container).await;
    if paused && let Err(error) = container.unpause().await {
        // It ended, or somebody was quicker.
        tracing::info!(error = error.to_string(), "not resumed after a commit");
    }
    packed
}

async fn pack(engine: &Arc<Engine>, container: &Arc<Container>) -> Result<Option<File>> {
    let (layer, points) = engine.containers.written(container).await?;
    let file = engine.images.spool().await?;
    blocking("packing a layer", move || {
        let mut out = BufWriter::with_capacity(BUFFER, file);
        let points = below_root(&points);
        let packed = pack_layer(&upper(&layer, &points), None, &mut out)?;
        let file = out.into_inner().map_err(|error| Error::Io {
            operation: "cannot store the layer",
            source: error.into_error(),
        })?;
        Ok((packed.entries > 0).then_some(file))
    })
    .await
}

/// What the client says, over what the container has.
fn configuration(said: &Value, present: &Value) -> Value {
    let empty = Map::new();
    let (said, present) = (
        said.as_object().unwrap_or(&empty),
        present.as_object().unwrap_or(&empty),
    );
    let mut merged = Map::new();
    for key in KEPT {
        let value = match (given(said, key), given(present, key)) {
            (Some(said), Some(present)) => both(key, said, present),
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => continue,
        };
        merged.insert(key.to_owned(), value);
    }
    // A program of the client's own does not want the old one's arguments.
    if given(said, "Entrypoint").is_some() && given(said, "Cmd").is_none() {
        merged.remove("Cmd");
    }
    merged.into()
}

/// A field that says something.
fn given<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    fields.get(key).filter(|value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    })
}

fn both(key: &str, said: &Value, present: &Value) -> Value {
    match (key, said, present) {
        ("Env", Value::Array(said), Value::Array(present)) => {
            let name = |entry: &Value| {
                let text = entry.as_str().unwrap_or_default();
                text.split('=').next().unwrap_or_default().to_owned()
            };
            let known: Vec<String> = said.iter().map(name).collect();
            let kept = present.iter().filter(|entry| !known.contains(&name(entry)));
            said.iter().chain(kept).cloned().collect()
        }
        ("Healthcheck", ..) => said.clone(),
        (_, Value::Object(said), Value::Object(present)) => {
            let mut all = present.clone();
            all.extend(said.clone());
            all.into()
        }
        _ => said.clone(),
    }
}

fn command(words: &Value) -> String {
    let words = words.as_array().into_iter().flatten();
    let words: Vec<&str> = words.filter_map(Value::as_str).collect();
    words.join(" ")
}

/// Makes the config of the image below into that of the new one, but for its layers.
fn write(document: &mut Value, wanted: &Wanted, created_by: String, config: Value, is_empty: bool) {
    let now = OffsetDateTime::now_utc().format(&Rfc3339);
    let now = now.unwrap_or_default();
    let mut step = json!({ "created": now, "created_by": created_by });
    for (key, value) in [("author", &wanted.author), ("comment", &wanted.comment)] {
        if !value.is_empty() {
            step[key] = json!(value);
        }
    }
    if is_empty {
        step["empty_layer"] = json!(true);
    }
    let Some(fields) = document.as_object_mut() else {
        return;
    };
    // What the one below says of itself.
    for key in [
        "comment",
        "container",
        "container_config",
        "id",
        "parent",
        "author",
    ] {
        fields.remove(key);
    }
    let history = fields.entry("history").or_insert_with(|| json!([]));
    if !history.is_array() {
        *history = json!([]);
    }
    if let Some(history) = history.as_array_mut() {
        history.push(step);
    }
    if !wanted.author.is_empty() {
        fields.insert("author".to_owned(), json!(wanted.author));
    }
    fields.insert("created".to_owned(), json!(now));
    fields.insert("config".to_owned(), config);
}

fn tell(engine: &Engine, container: &Container, wanted: &Wanted, id: &Digest) {
    let name = wanted.names.first().map(ImageRef::familiar);
    if let (Some(image), Some(name)) = (engine.images.get(&id.to_string()), &name) {
        let attributes = images::attributes(&image, name);
        let events = &engine.events;
        events.publish(Kind::Image, "tag", id.to_string(), attributes);
    }
    let more = [
        ("comment", wanted.comment.clone()),
        ("imageID", id.to_string()),
        ("imageRef", name.unwrap_or_default()),
    ];
    engine.containers.tell_with(container, "commit", &more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_says_goes_over_what_the_container_has() {
        let said = json!({ "Env": ["A=1"], "Labels": { "a": "1" }, "Cmd": ["x"], "Hostname": "h" });
        let present = json!({
            "Env": ["A=0", "B=2"], "Labels": { "a": "0", "b": "2" }, "Cmd": ["y"], "Image": "i",
            "Entrypoint": ["/e"], "User": "", "Volumes": null, "WorkingDir": "/w",
        });
        assert_eq!(
            configuration(&said, &present),
            json!({
                "Env": ["A=1", "B=2"], "Labels": { "a": "1", "b": "2" }, "Cmd": ["x"],
                "Entrypoint": ["/e"], "WorkingDir": "/w",
            })
        );
        let own = json!({ "Entrypoint": ["/own"] });
        let config = configuration(&own, &present);
        assert_eq!(config["Entrypoint"], json!(["/own"]));
        assert!(config.get("Cmd").is_none());
        assert_eq!(configuration(&Value::Null, &present)["Cmd"], json!(["y"]));
    }
}
