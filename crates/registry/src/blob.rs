use std::fmt;
use std::sync::Arc;

use berth_names::{Digest, ImageRef};
use bytes::{Buf as _, Bytes};
use http::header::CONTENT_RANGE;
use http::{Method, StatusCode};
use reqwest::Response;

use crate::auth::Access;
use crate::client::{Attempts, Inner};
use crate::error::Fault;
use crate::hosts::Endpoint;
use crate::request::Ask;
use crate::retry::Backoff;
use crate::{Credentials, Error, Result};

/// A connection that lasted for this many bytes was a good one: failures are counted anew.
const GOOD_RUN: u64 = 1 << 20;

/// Where a blob comes from.
pub(crate) struct Source {
    pub(crate) inner: Arc<Inner>,
    pub(crate) image: ImageRef,
    pub(crate) digest: Digest,
    pub(crate) credentials: Credentials,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// The bytes of a blob. A connection that breaks, stalls or ends early is replaced by one that
/// goes on where it stopped, by `Range` or, where that is unknown, by skipping what is known.
pub struct BlobStream {
    source: Source,
    what: String,
    size: Option<u64>,
    /// Of the next byte that [`BlobStream::chunk`] returns.
    offset: u64,
    /// Body of the present connection; `None` between connections and at the end.
    body: Option<Response>,
    /// Bytes of this body that come before `offset`.
    to_skip: u64,
    /// The first of the source's endpoints that is still worth asking.
    endpoint: usize,
    /// `offset` when the present connection began.
    began: u64,
    backoff: Backoff,
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "BlobStream({} at {} of {:?})",
            self.what, self.offset, self.size
        )
    }
}

impl BlobStream {
    pub(crate) async fn open(source: Source, size: Option<u64>, offset: u64) -> Result<Self> {
        let mut stream = Self {
            what: format!("{}@{}", source.image.repository(), source.digest),
            backoff: Backoff::new(&source.inner.config),
            source,
            size,
            offset,
            body: None,
            to_skip: 0,
            endpoint: 0,
            began: offset,
        };
        if !stream.is_complete() {
            stream.connect().await?;
        }
        Ok(stream)
    }

    /// Where in the blob the next chunk starts.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Size of the whole blob, once it is known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The host that serves the blob at present.
    pub fn host(&self) -> &str {
        self.source
            .endpoints
            .get(self.endpoint)
            .map_or("", |e| e.authority.as_str())
    }

    /// The next bytes, never empty; `None` at the end. May be cancelled without loss.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let patience = self.source.inner.config.progress_timeout;
        loop {
            let Some(body) = &mut self.body else {
                if self.is_complete() {
                    return Ok(None);
                }
                self.connect().await?;
                continue;
            };
            match tokio::time::timeout(patience, body.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    if let Some(bytes) = self.accept(bytes)? {
                        return Ok(Some(bytes));
                    }
                }
                Ok(Ok(None)) => match self.size {
                    Some(size) if self.offset < size => {
                        self.interrupted(Fault::Truncated {
                            at: self.offset,
                            size,
                        })
                        .await?;
                    }
                    _ => {
                        self.body = None;
                        self.size = Some(self.offset);
                    }
                },
                Ok(Err(error)) => {
                    self.interrupted(Fault::Connection(error.without_url()))
                        .await?;
                }
                Err(_) => self.interrupted(Fault::Stalled(patience)).await?,
            }
        }
    }

    /// Takes what arrived; `None` if all of it was known already.
    fn accept(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>> {
        let known = self.to_skip.min(bytes.len() as u64);
        bytes.advance(known as usize);
        self.to_skip -= known;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.offset += bytes.len() as u64;
        match self.size {
            Some(size) if self.offset > size => Err(self.wrong_size(size, self.offset)),
            _ => Ok(Some(bytes)),
        }
    }

    fn is_complete(&self) -> bool {
        self.size.is_some_and(|size| self.offset >= size)
    }

    /// Gives up a connection and waits before another one, if there is to be one.
    async fn interrupted(&mut self, fault: Fault) -> Result<()> {
        self.body = None;
        if self.is_complete() {
            return Ok(());
        }
        let host = self.host().to_owned();
        let progress = self.offset - self.began;
        if progress >= GOOD_RUN {
            self.backoff = Backoff::new(&self.source.inner.config);
        }
        let error = Error::Unavailable {
            host,
            retry_after: None,
            source: fault,
        };
        if progress == 0 && self.endpoint + 1 < self.source.endpoints.len() {
            tracing::warn!(mirror = self.host(), %error, "mirror passed over");
            self.endpoint += 1;
            return Ok(());
        }
        self.backoff.pause_after(error).await
    }

    /// Finds a host that delivers from `offset` on.
    async fn connect(&mut self) -> Result<()> {
        let mut attempts = Attempts::default();
        let first = self.endpoint;
        let candidates = self.source.endpoints.get(first..).unwrap_or_default();
        for (index, (endpoint, mut backoff)) in self.source.inner.in_turn(candidates).enumerate() {
            loop {
                match self.connect_to(endpoint).await {
                    Ok((body, at, total)) => {
                        self.size = self.size.or(total);
                        self.to_skip = self.offset - at;
                        self.began = self.offset;
                        self.body = Some(body);
                        self.endpoint = first + index;
                        return Ok(());
                    }
                    Err(error) => match backoff.pause_after(error).await {
                        Ok(()) => {}
                        Err(error) => break attempts.note(endpoint, error),
                    },
                }
            }
        }
        Err(attempts.verdict(self.what.clone()))
    }

    /// Asks one host. Returns the body, the position of its first byte (at most `offset`) and the
    /// blob's size if the host tells.
    async fn connect_to(&self, endpoint: &Endpoint) -> Result<(Response, u64, Option<u64>)> {
        let source = &self.source;
        let ask = Ask {
            access: Access::new(&source.image, &source.credentials),
            method: Method::GET,
            path: format!("{}/blobs/{}", source.image.path(), source.digest),
            accept: None,
            offset: self.offset,
            what: &self.what,
            patience: source.inner.config.progress_timeout,
        };
        let response = ask.put_to(endpoint, &source.inner.authorizer).await?;
        let range = || {
            response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|r| r.to_str().ok())
        };
        let (at, total) = match response.status() {
            StatusCode::PARTIAL_CONTENT => range()
                .and_then(parse_range)
                .filter(|(at, _)| *at <= self.offset)
                .ok_or_else(|| self.protocol(endpoint, "another range than was asked for"))?,
            StatusCode::OK => (0, response.content_length()),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(self.wrong_size(self.size.unwrap_or(self.offset), self.offset));
            }
            other => return Err(self.protocol(endpoint, &other.to_string())),
        };
        match (self.size, total) {
            (Some(expected), Some(actual)) if expected != actual => {
                let (what, host) = (self.what.clone(), endpoint.authority.clone());
                Err(Error::SizeMismatch {
                    what,
                    host,
                    expected,
                    actual,
                })
            }
            _ => Ok((response, at, total)),
        }
    }

    fn protocol(&self, endpoint: &Endpoint, problem: &str) -> Error {
        let (what, host) = (self.what.clone(), endpoint.authority.clone());
        Error::Protocol {
            what,
            host,
            problem: problem.to_owned(),
        }
    }

    fn wrong_size(&self, expected: u64, actual: u64) -> Error {
        let (what, host) = (self.what.clone(), self.host().to_owned());
        Error::SizeMismatch {
            what,
            host,
            expected,
            actual,
        }
    }
}

/// `Content-Range: bytes <first>-<last>/<size or *>` (RFC 9110, 14.4).
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last) = (
        first.trim().parse::<u64>().ok()?,
        last.trim().parse::<u64>().ok()?,
    );
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse::<u64>().ok()?),
    };
    let sound = first <= last && total.is_none_or(|total| last < total);
    sound.then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn ranges_are_read_only_when_sound() {
        let cases = [
            ("bytes 0-4/10", Some((0, Some(10)))),
            ("bytes 5-9/10", Some((5, Some(10)))),
            ("bytes 5-9/*", Some((5, None))),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("bytes=5-9/10", None),
            ("items 5-9/10", None),
            ("", None),
            ("bytes 18446744073709551616-5/1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_range(text), expected, "{text:?}");
        }
    }
}
