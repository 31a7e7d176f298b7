//! JSON in and out.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Largest JSON body that is taken.
const LIMIT: usize = 16 << 20;

/// A JSON body, received or sent.
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
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(Error::BadJson)
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
