//! JSON in and out.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};

/// Largest JSON body that is taken.
const LIMIT: usize = 16 << 20;

/// A JSON body, received or sent. Received, what is `null` counts as left out: clients write it for
/// what they do not set.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        match read(request).await? {
            Some(value) => Ok(Self(value)),
            None => Err(Error::bad(
                "invalid JSON: got EOF while reading request body",
            )),
        }
    }
}

/// `None` where there is no body.
async fn read<T: DeserializeOwned>(request: Request) -> Result<Option<T>> {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let bytes = receive(request.into_body(), LIMIT).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    check_type(kind.as_ref())?;
    parse(&bytes).map(Some)
}

/// A document without its nulls.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut document: Value = serde_json::from_slice(bytes).map_err(Error::BadJson)?;
    drop_nulls(&mut document);
    serde_json::from_value(document).map_err(Error::BadJson)
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The whole body, in memory.
pub async fn receive(body: Body, limit: usize) -> Result<Bytes> {
    to_bytes(body, limit).await.map_err(Error::Receive)
}

fn check_type(kind: Option<&HeaderValue>) -> Result<()> {
    let text = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Error::bad(format!(
        "unsupported Content-Type header ({text}): must be 'application/json'"
    )))
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(mut bytes) => {
                // As Docker's encoder ends each document.
                bytes.push(b'\n');
                let mut response = Response::new(Body::from(bytes));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                response
            }
            Err(error) => Error::BadJson(error).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: Option<&str>, body: &str) -> Request {
        let mut builder = http::Request::builder();
        if let Some(kind) = kind {
            builder = builder.header(CONTENT_TYPE, kind);
        }
        builder.body(Body::from(body.to_owned())).unwrap()
    }

    async fn read_map(kind: Option<&str>, body: &str) -> Result<Option<serde_json::Value>> {
        read(request(kind, body)).await
    }

    #[test]
    fn what_is_null_was_left_out() {
        let body =
            br#"{"Cmd": null, "HostConfig": {"Binds": null, "Memory": 1}, "List": [{"A": null}]}"#;
        let read: Value = parse(body).unwrap();
        assert_eq!(
            read,
            serde_json::json!({"HostConfig": {"Memory": 1}, "List": [{}]})
        );
    }

    #[tokio::test]
    async fn only_json_that_says_so_is_read() {
        let json = Some("application/json; charset=utf-8");
        assert!(read_map(json, "{}").await.unwrap().is_some());
        assert!(read_map(None, "").await.unwrap().is_none());
        let refused = |error: Error| error.status().as_u16();
        assert_eq!(refused(read_map(None, "{}").await.unwrap_err()), 400);
        let text = read_map(Some("text/plain"), "{}").await.unwrap_err();
        assert_eq!(
            text.to_string(),
            "unsupported Content-Type header (text/plain): must be 'application/json'"
        );
        let bad = read_map(json, "{} trailing").await.unwrap_err();
        assert!(bad.to_string().starts_with("invalid JSON: "), "{bad}");
    }
}
