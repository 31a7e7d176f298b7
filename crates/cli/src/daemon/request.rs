//! Requests before they are sent.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio_stream::StreamExt;
use tokio_util::io::ReaderStream;

use crate::error::Result;

/// Bytes that are read at once of what is uploaded.
const CHUNK: usize = 64 << 10;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// One request, made up step by step.
#[derive(Debug)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(HeaderName, String)>,
    body: Body,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: whole(Bytes::new()),
        }
    }

    /// Parts of the path that people typed go through [`segment`] first.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    pub fn head(path: impl Into<String>) -> Self {
        Self::new(Method::HEAD, path)
    }

    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub fn query(mut self, key: &str, value: impl AsRef<str>) -> Self {
        self.query.push((key.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Left out where it is empty.
    pub fn given(self, key: &str, value: impl AsRef<str>) -> Self {
        match value.as_ref() {
            "" => self,
            value => self.query(key, value),
        }
    }

    /// Left out where it is false.
    pub fn flag(self, key: &str, value: bool) -> Self {
        if value { self.query(key, "1") } else { self }
    }

    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn json(mut self, value: &Value) -> Self {
        self.body = whole(value.to_string().into());
        self.header(CONTENT_TYPE, "application/json")
    }

    /// Sent as it is read, without its length.
    pub fn upload(mut self, kind: &str, from: impl AsyncRead + Send + 'static) -> Self {
        let chunks = ReaderStream::with_capacity(from, CHUNK).map(|read| read.map(Frame::data));
        self.body = StreamBody::new(chunks).boxed_unsync();
        self.header(CONTENT_TYPE, kind)
    }

    pub(super) fn into_request(self, prefix: &str) -> Result<Request<Body>> {
        let mut target = format!("{prefix}{}", self.path);
        if !self.query.is_empty() {
            let mut query = form_urlencoded::Serializer::new(String::new());
            target.push('?');
            target.push_str(&query.extend_pairs(&self.query).finish());
        }
        let mut request = Request::builder().method(self.method).uri(target);
        for (name, value) in self.headers {
            let value = HeaderValue::from_str(&value).map_err(http::Error::from)?;
            request = request.header(name, value);
        }
        Ok(request.body(self.body)?)
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// What people typed, as a part of a path. Slashes stay: images have them in their names.
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'/'
            | b':'
            | b'@' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_stays_within_its_place() {
        assert_eq!(segment("r:5000/a/b:1@sha256:ab"), "r:5000/a/b:1@sha256:ab");
        assert_eq!(segment("a b?c#d%"), "a%20b%3Fc%23d%25");
    }

    #[test]
    fn a_query_is_encoded_and_left_out_where_it_is_empty() {
        let call = Call::get("/x").given("a", "").flag("b", false);
        assert_eq!(call.into_request("/v1.50").unwrap().uri(), "/v1.50/x");
        let call = Call::get("/x").given("a", "1 &2").flag("b", true);
        let request = call.into_request("").unwrap();
        assert_eq!(request.uri(), "/x?a=1+%262&b=1");
    }
}
