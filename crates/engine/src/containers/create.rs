//! `POST /containers/create`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use berth_standalone::{Config, Draft, HostConfig, NetworkingConfig};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Engine, Error, Json, Query, Result};

#[derive(Deserialize)]
struct Wanted {
    #[serde(flatten)]
    config: Config,
    #[serde(rename = "HostConfig", default)]
    host: HostConfig,
    #[serde(rename = "NetworkingConfig", default)]
    networking: NetworkingConfig,
}

pub async fn create(
    State(engine): State<Arc<Engine>>,
    query: Query,
    Json(mut body): Json<Value>,
) -> Result<Response> {
    drop_nulls(&mut body);
    let wanted: Wanted = serde_json::from_value(body).map_err(Error::BadJson)?;
    let draft = Draft {
        name: query.text("name").to_owned(),
        config: wanted.config,
        host: wanted.host,
        networking: wanted.networking,
    };
    if draft.config.image.is_empty() {
        return Err(Error::bad(
            "config cannot be empty in order to create a container",
        ));
    }
    let image = crate::images::find(&engine, &draft.config.image)?;
    let (container, warnings) = engine.containers.create(draft, &image.id).await?;
    let answer = json!({ "Id": container.view().id.to_string(), "Warnings": warnings });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// Clients write `null` for what they leave out.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_null_was_left_out() {
        let mut body = json!({"Cmd": null, "HostConfig": {"Binds": null, "Memory": 1}});
        drop_nulls(&mut body);
        let wanted: Wanted = serde_json::from_value(body).unwrap();
        assert_eq!(wanted.config.cmd, None);
        assert_eq!(wanted.host.limits.memory, 1);
        assert!(wanted.config.rest.is_empty(), "{:?}", wanted.config.rest);
    }
}
