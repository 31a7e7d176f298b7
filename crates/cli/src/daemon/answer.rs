//! Answers: whole, in chunks, or as JSON objects one after another.

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

const FRAMED: &str = "application/vnd.docker.multiplexed-stream";

/// Output has its streams told apart by frames; a terminal's has not.
pub fn is_framed<T>(response: &Response<T>) -> bool {
    response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind == FRAMED)
}

#[derive(Debug)]
pub struct Answer {
    response: Response<Incoming>,
}

impl Answer {
    /// # Errors
    /// With the daemon's message if the status tells of a failure.
    pub(super) async fn checked(response: Response<Incoming>) -> Result<Self> {
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(Self { response });
        }
        let body = Self { response }.bytes().await.unwrap_or_default();
        Err(Error::Refused {
            status: status.as_u16(),
            message: message(status, &body),
        })
    }

    /// Its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub fn is_framed(&self) -> bool {
        is_framed(&self.response)
    }

    pub async fn bytes(self) -> Result<Bytes> {
        let body = self.response.into_body();
        Ok(body.collect().await.map_err(Error::Broken)?.to_bytes())
    }

    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        serde_json::from_slice(&self.bytes().await?).map_err(Error::Answer)
    }

    /// `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.response.body_mut().frame().await {
            if let Ok(data) = frame.map_err(Error::Broken)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    pub fn objects(self) -> Objects {
        Objects {
            answer: self,
            held: BytesMut::new(),
        }
    }
}

/// `{"message": …}`, or whatever the body says.
fn message(status: StatusCode, body: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(body).ok();
    let said = said.and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
    let said = said.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    match said.as_str() {
        "" => format!("the daemon answered {status}"),
        _ => said,
    }
}

/// JSON objects as they come in.
#[derive(Debug)]
pub struct Objects {
    answer: Answer,
    held: BytesMut,
}

impl Objects {
    /// `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(value) = first(&mut self.held)? {
                return Ok(Some(value));
            }
            match self.answer.chunk().await? {
                Some(chunk) => self.held.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

/// Takes one whole object off the front.
fn first(held: &mut BytesMut) -> Result<Option<Value>> {
    let mut values = serde_json::Deserializer::from_slice(held).into_iter::<Value>();
    let found = match values.next() {
        Some(Ok(value)) => Some(value),
        Some(Err(error)) if error.is_eof() => return Ok(None),
        Some(Err(error)) => return Err(Error::Answer(error)),
        None => None,
    };
    let taken = values.byte_offset();
    let _taken = held.split_to(taken);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_however_they_are_cut() {
        let text = b"{\"a\":1}\r\n{\"b\":\"}\"}{\"c\"";
        for cut in 0..text.len() {
            let mut held = BytesMut::from(&text[..cut]);
            let mut found = Vec::new();
            while let Some(value) = first(&mut held).unwrap() {
                found.push(value.to_string());
            }
            held.extend_from_slice(&text[cut..]);
            while let Some(value) = first(&mut held).unwrap() {
                found.push(value.to_string());
            }
            assert_eq!(found, ["{\"a\":1}", "{\"b\":\"}\"}"], "cut at {cut}");
        }
        assert!(first(&mut BytesMut::from(&b"no json"[..])).is_err());
    }

    #[test]
    fn a_refusal_is_told_in_the_daemons_words() {
        let status = StatusCode::NOT_FOUND;
        assert_eq!(message(status, b"{\"message\":\"No such x\"}"), "No such x");
        assert_eq!(message(status, b"plain\n"), "plain");
        assert_eq!(message(status, b""), "the daemon answered 404 Not Found");
    }
}
