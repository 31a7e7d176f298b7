//! `GET /distribution/{name}/json`: what a registry has under a name, without pulling it.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::{Value, json};

use super::{failure, name};
use crate::registry_auth::RegistryAuth;
use crate::{Engine, Error, Json, Result};

/// Bytes of a config.
const LIMIT: u64 = 8 << 20;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Distribution {
    descriptor: Descriptor,
    platforms: Vec<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

pub async fn distribution(
    State(engine): State<Arc<Engine>>,
    Path(rest): Path<String>,
    RegistryAuth(credentials): RegistryAuth,
) -> Result<Json<Distribution>> {
    let name = rest.strip_suffix("/json").ok_or(Error::NoRoute)?;
    let reference = name::parse(name)?;
    let registry = engine.images.registry();
    let failed = |error| failure::of_registry(&reference, error);
    let resolved = registry
        .resolve(&reference, &credentials)
        .await
        .map_err(failed)?;
    let document: Value = serde_json::from_slice(&resolved.bytes).map_err(|source| {
        let what = format!("the manifest of {reference}");
        Error::Stored { what, source }
    })?;
    let platforms = if resolved.is_index() {
        let entries = document["manifests"].as_array().cloned();
        let platforms = entries.unwrap_or_default().into_iter();
        platforms
            .map(|entry| entry["platform"].clone())
            .filter(Value::is_object)
            .collect()
    } else {
        let digest = document["config"]["digest"].as_str().unwrap_or_default();
        match berth_names::Digest::parse(digest) {
            Ok(digest) => {
                let config = registry.blob_bytes(&reference, &digest, LIMIT, &credentials);
                let config = config.await.map_err(failed)?;
                platform_of(&config)
            }
            Err(_) => Vec::new(),
        }
    };
    Ok(Json(Distribution {
        descriptor: Descriptor {
            media_type: resolved.media_type,
            digest: resolved.digest.to_string(),
            size: resolved.size,
        },
        platforms,
    }))
}

fn platform_of(config: &[u8]) -> Vec<Value> {
    let config: Value = serde_json::from_slice(config).unwrap_or_default();
    let mut platform = json!({ "architecture": config["architecture"], "os": config["os"] });
    if let (Some(variant), Some(fields)) = (config["variant"].as_str(), platform.as_object_mut()) {
        fields.insert("variant".to_owned(), variant.into());
    }
    let told = platform["os"].is_string();
    told.then_some(platform).into_iter().collect()
}
