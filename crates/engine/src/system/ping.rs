//! `/_ping`: what clients ask first, by GET or HEAD, and learn most from the headers of.

use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, PRAGMA};
use http::{HeaderName, HeaderValue};

pub async fn ping() -> Response {
    let mut response = Response::new("OK".into());
    let headers = response.headers_mut();
    // 1 is the builder behind `/build`.
    for (name, value) in [
        (HeaderName::from_static("builder-version"), "1"),
        (HeaderName::from_static("swarm"), "inactive"),
        (CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (PRAGMA, "no-cache"),
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
