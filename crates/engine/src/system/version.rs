//! `/version`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;

use super::host;
use crate::{ApiVersion, Engine, Json};

/// Programs read a version of Docker here and switch features on by it. Berth's own is told as a
/// component's; this is the one whose interface is served.
pub const DOCKER: &str = "28.2.2";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    platform: Platform,
    version: &'static str,
    api_version: String,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: String,
    git_commit: &'static str,
    go_version: &'static str,
    os: &'static str,
    arch: &'static str,
    kernel_version: String,
    build_time: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    experimental: bool,
    components: Vec<Component>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Platform {
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: &'static str,
    version: String,
    details: BTreeMap<&'static str, String>,
}

pub async fn version(State(engine): State<Arc<Engine>>) -> Json<Version> {
    let own = engine.facts.version.clone();
    let kernel = host::kernel();
    let details = BTreeMap::from([
        ("ApiVersion", ApiVersion::MAX.to_string()),
        ("Arch", host::architecture().to_owned()),
        ("Experimental", engine.facts.experimental.to_string()),
        ("KernelVersion", kernel.clone()),
        ("MinAPIVersion", ApiVersion::MIN.to_string()),
        ("Os", "linux".to_owned()),
    ]);
    Json(Version {
        platform: Platform {
            name: format!("Berth {own}"),
        },
        version: DOCKER,
        api_version: ApiVersion::MAX.to_string(),
        min_api_version: ApiVersion::MIN.to_string(),
        git_commit: "",
        go_version: "",
        os: "linux",
        arch: host::architecture(),
        kernel_version: kernel,
        build_time: "",
        experimental: engine.facts.experimental,
        components: vec![Component {
            name: "berthd",
            version: own,
            details,
        }],
    })
}
