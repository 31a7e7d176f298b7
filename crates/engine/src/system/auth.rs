//! `/auth`: whether a registry knows somebody.

use std::sync::Arc;

use axum::extract::State;
use berth_names::ImageRef;
use serde::Serialize;

use crate::registry_auth::AuthConfig;
use crate::{Engine, Error, Json, Result};

/// Docker Hub, as clients name it, and the name that its images have.
const HUB: &str = "docker.io";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Answer {
    status: &'static str,
    identity_token: String,
}

pub async fn auth(
    State(engine): State<Arc<Engine>>,
    Json(config): Json<AuthConfig>,
) -> Result<Json<Answer>> {
    let registry = registry_of(&config.server_address);
    let credentials = config.credentials()?;
    // Registries are asked about images; no image is meant here.
    let any = ImageRef::parse(&format!("{registry}/berth/login"))
        .map_err(|error| Error::bad(error.to_string()))?;
    let known = engine.images.registry().ping(&any, &credentials).await;
    known.map_err(|error| refused(&registry, error))?;
    Ok(Json(Answer {
        status: "Login Succeeded",
        identity_token: String::new(),
    }))
}

/// `https://index.docker.io/v1/` and `host:port` as the first part of an image's name.
fn registry_of(address: &str) -> String {
    let bare = address
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or_default();
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// What people read after `Error response from daemon:`.
fn refused(registry: &str, error: berth_registry::Error) -> Error {
    match error {
        berth_registry::Error::Unauthorized { reason, .. } => Error::Unauthorized(format!(
            "Get \"https://{registry}/v2/\": unauthorized: {reason}"
        )),
        other => Error::Registry(other),
    }
}

#[cfg(test)]
mod tests {
    use super::registry_of;

    #[test]
    fn addresses_of_all_forms_name_a_registry() {
        for (address, registry) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://127.0.0.1:5000/v2/", "127.0.0.1:5000"),
            ("https://quay.io", "quay.io"),
        ] {
            assert_eq!(registry_of(address), registry, "{address}");
        }
    }
}
