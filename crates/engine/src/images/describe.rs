//! `GET /images/{name}/json`.

use berth_images::Image;
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::list::Sizes;
use super::name;
use crate::{ApiVersion, Engine, Error, Json, Result};

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: &'static str,
    comment: String,
    created: String,
    docker_version: String,
    author: String,
    config: Value,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
    graph_driver: Value,
    #[serde(rename = "RootFS")]
    root_fs: Value,
    metadata: Value,
}

pub async fn inspect(engine: &Engine, name: &str, version: ApiVersion) -> Result<Json<Inspected>> {
    let image = name::find(engine, name)?;
    let document = document(engine, &image).await?;
    let sizes = Sizes::count(engine).await?;
    let text = |key: &str| text(&document, key);
    let last_comment = document["history"]
        .as_array()
        .and_then(|history| history.last())
        .and_then(|last| last["comment"].as_str());
    let size = sizes.of(&image);
    Ok(Json(Inspected {
        id: image.id.to_string(),
        repo_tags: name::all_familiar(&image.repo_tags),
        repo_digests: name::all_familiar(&image.repo_digests),
        parent: "",
        comment: match text("comment") {
            comment if comment.is_empty() => last_comment.unwrap_or_default().to_owned(),
            comment => comment,
        },
        created: text("created"),
        docker_version: text("docker_version"),
        author: text("author"),
        config: configuration(&document),
        architecture: text("architecture"),
        variant: text("variant"),
        os: text("os"),
        size,
        virtual_size: (version < ApiVersion::new(44)).then_some(size),
        graph_driver: json!({ "Data": null, "Name": "overlay2" }),
        root_fs: json!({
            "Type": "layers",
            "Layers": document["rootfs"]["diff_ids"],
        }),
        metadata: json!({ "LastTagTime": arrival(&image) }),
    }))
}

/// The moment at which the image came here: its names carry none of their own.
fn arrival(image: &Image) -> Option<String> {
    OffsetDateTime::from(image.pulled_at).format(&Rfc3339).ok()
}

fn text(document: &Value, key: &str) -> String {
    document[key].as_str().unwrap_or_default().to_owned()
}

/// The image's config as its builder wrote it.
pub async fn document(engine: &Engine, image: &Image) -> Result<Value> {
    let bytes = engine.images.config_document(image).await?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Stored {
        what: format!("the config of image {}", image.id),
        source,
    })
}

/// What containers get of it, with all fields that clients' templates may name.
fn configuration(document: &Value) -> Value {
    let mut shown = json!({
        "Hostname": "", "Domainname": "", "User": "",
        "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "Tty": false, "OpenStdin": false, "StdinOnce": false,
        "Env": null, "Cmd": null, "Image": "", "Volumes": null, "WorkingDir": "",
        "Entrypoint": null, "OnBuild": null, "Labels": null,
    });
    let given = document["config"].as_object();
    if let Some(fields) = shown.as_object_mut() {
        let given = given.into_iter().flat_map(Map::iter);
        for (name, value) in given {
            fields.insert(name.clone(), value.clone());
        }
    }
    shown
}
