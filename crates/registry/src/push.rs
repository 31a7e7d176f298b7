//! Pushing: blobs that the registry lacks, then the manifest that names them.
//!
//! ```text
//! HEAD blob ─ there ─────────────────────────────────────────────► done
//!     └─ POST uploads?mount=…&from=… ─ 201, mounted from another repository ─► done
//!            └─ 202, an upload ─► PATCH piece … ─► PUT ?digest=… ─► done
//!                                   └─ broke off: GET says how much is there, on from that byte
//! ```
//!
//! Only the registry itself is pushed to, never a mirror. An upload's address is the registry's to
//! choose; on another origin it gets no credentials.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use berth_names::{Digest, ImageRef};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{Method, StatusCode};
use http_body::{Frame, SizeHint};
use reqwest::{RequestBuilder, Response, Url};
use tokio::sync::mpsc;

use crate::auth::Access;
use crate::challenge;
use crate::client::Inner;
use crate::error::Fault;
use crate::hosts::{Endpoint, authority};
use crate::request::failure;
use crate::retry::Backoff;
use crate::{Client, Credentials, Error, Result};

/// Bytes of one request of an upload: what is lost at most when it breaks off.
const PIECE: u64 = 32 << 20;
/// Bytes read from the disk at once.
const BUFFER: usize = 64 << 10;
/// Buffers on their way from the disk to the network.
const AHEAD: usize = 4;
/// A registry may ask for larger pieces, but not for ones that could not be tried again.
const MAX_PIECE: u64 = 1 << 30;
/// The smallest piece that a registry takes (distribution spec, "Pushing a blob in chunks").
const MIN_LENGTH: &str = "oci-chunk-min-length";

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// The repository had it.
    Present,
    /// Another repository of the registry had it.
    Mounted,
    Uploaded,
}

/// A blob to be pushed.
#[derive(Debug)]
pub struct Upload<'a> {
    pub digest: &'a Digest,
    pub size: u64,
    /// All of the blob, from the file's beginning.
    pub file: File,
    /// A repository of the same registry that may have it, as the path below the registry.
    pub mount_from: Option<&'a str>,
    /// Bytes that were taken by the registry so far, for whoever watches.
    pub sent: Arc<AtomicU64>,
}

/// One conversation with the registry about one blob or manifest.
struct Talk<'a> {
    inner: &'a Inner,
    endpoint: &'a Endpoint,
    access: Access<'a>,
    what: String,
}

impl Client {
    /// Sees to it that the image's repository has the blob.
    pub async fn push_blob(
        &self,
        image: &ImageRef,
        upload: Upload<'_>,
        credentials: &Credentials,
    ) -> Result<Pushed> {
        let endpoint = self.own_endpoint(image).await?;
        let talk = Talk {
            inner: &self.inner,
            endpoint: &endpoint,
            access: Access::new(image, credentials),
            what: format!("{}@{}", image.repository(), upload.digest),
        };
        if talk.has(image, upload.digest).await? {
            return Ok(Pushed::Present);
        }
        talk.upload(image, &upload).await
    }

    /// Stores a manifest or index under the tag of `image`, or by its digest where it has none.
    pub async fn push_manifest(
        &self,
        image: &ImageRef,
        media_type: &str,
        bytes: Bytes,
        credentials: &Credentials,
    ) -> Result<Digest> {
        let endpoint = self.own_endpoint(image).await?;
        let digest = Digest::sha256_of(&bytes);
        let name = image.tag().unwrap_or(digest.as_str());
        let talk = Talk {
            inner: &self.inner,
            endpoint: &endpoint,
            access: Access::new(image, credentials),
            what: image.to_string(),
        };
        let url = endpoint.url(&format!("{}/manifests/{name}", image.path()));
        let mut backoff = Backoff::new(&self.inner.config);
        loop {
            let put = talk.send(Method::PUT, &url, |request| {
                let request = request.header(CONTENT_TYPE, media_type);
                (request.body(bytes.clone()), None)
            });
            match put.await {
                Ok(_) => return Ok(digest),
                Err(error) => backoff.pause_after(error).await?,
            }
        }
    }
}

impl Client {
    /// The registry itself.
    pub(crate) async fn own_endpoint(&self, image: &ImageRef) -> Result<Endpoint> {
        let endpoints = self.inner.endpoints(image, false).await?;
        let own = endpoints.into_iter().rev().find(|e| e.trusted);
        own.ok_or_else(|| Error::NoHost {
            what: image.to_string(),
        })
    }
}

impl Talk<'_> {
    async fn has(&self, image: &ImageRef, digest: &Digest) -> Result<bool> {
        let url = self
            .endpoint
            .url(&format!("{}/blobs/{digest}", image.path()));
        let mut backoff = Backoff::new(&self.inner.config);
        loop {
            match self
                .send(Method::HEAD, &url, |request| (request, None))
                .await
            {
                Ok(_) => return Ok(true),
                Err(Error::NotFound { .. }) => return Ok(false),
                // Storage behind another origin, which a HEAD was sent to: asked no further.
                Err(Error::BadRedirect { .. }) => return Ok(true),
                Err(error) => backoff.pause_after(error).await?,
            }
        }
    }

    async fn upload(&self, image: &ImageRef, upload: &Upload<'_>) -> Result<Pushed> {
        let mut backoff = Backoff::new(&self.inner.config);
        loop {
            let began = match self.begin(image, upload).await {
                Ok(began) => began,
                Err(error) => {
                    backoff.pause_after(error).await?;
                    continue;
                }
            };
            let Some((location, piece)) = began else {
                return Ok(Pushed::Mounted);
            };
            match self.transfer(location, piece, upload, &mut backoff).await {
                Ok(()) => return Ok(Pushed::Uploaded),
                // The registry has forgotten the upload: another one.
                Err(error @ Error::NotFound { .. }) => {
                    let host = self.endpoint.authority.clone();
                    let again = Error::Unavailable {
                        host,
                        retry_after: None,
                        source: Fault::UploadLost,
                    };
                    backoff.pause_after(again).await.map_err(|_| error)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens an upload; `None` if the blob was mounted instead.
    async fn begin(&self, image: &ImageRef, upload: &Upload<'_>) -> Result<Option<(Url, u64)>> {
        let mut url = self
            .endpoint
            .url(&format!("{}/blobs/uploads/", image.path()));
        if let Some(from) = upload.mount_from {
            url.query_pairs_mut()
                .append_pair("mount", upload.digest.as_str())
                .append_pair("from", from);
        }
        let empty = |request: RequestBuilder| (request.header(CONTENT_LENGTH, 0), None);
        let answer = match self.send(Method::POST, &url, empty).await {
            // What may not be read there is uploaded here.
            Err(Error::Unauthorized { .. } | Error::NotFound { .. })
                if upload.mount_from.is_some() =>
            {
                url.set_query(None);
                self.send(Method::POST, &url, empty).await?
            }
            other => other?,
        };
        if answer.status() == StatusCode::CREATED {
            return Ok(None);
        }
        let least = answer.headers().get(MIN_LENGTH);
        let least = least.and_then(|value| value.to_str().ok()?.parse().ok());
        let piece = PIECE.max(least.unwrap_or(0)).min(MAX_PIECE);
        Ok(Some((self.location(&url, &answer)?, piece)))
    }

    /// Sends what is missing piece by piece, and closes the upload.
    async fn transfer(
        &self,
        mut location: Url,
        piece: u64,
        upload: &Upload<'_>,
        backoff: &mut Backoff,
    ) -> Result<()> {
        let mut offset = 0;
        while offset < upload.size {
            upload.sent.store(offset, Ordering::Relaxed);
            let length = piece.min(upload.size - offset);
            match self.patch(&location, offset, length, upload).await {
                Ok(answer) => {
                    location = self.location(&location, &answer)?;
                    offset += length;
                    *backoff = Backoff::new(&self.inner.config);
                }
                Err(error) => {
                    backoff.pause_after(error).await?;
                    let answer = self
                        .send(Method::GET, &location, |request| (request, None))
                        .await?;
                    offset = received(&answer).min(upload.size);
                    location = self.location(&location, &answer).unwrap_or(location);
                    tracing::info!(what = self.what, offset, "resuming an upload");
                }
            }
        }
        upload.sent.store(upload.size, Ordering::Relaxed);
        location
            .query_pairs_mut()
            .append_pair("digest", upload.digest.as_str());
        loop {
            let closing = self.send(Method::PUT, &location, |request| {
                (request.header(CONTENT_LENGTH, 0), None)
            });
            match closing.await {
                Ok(_) => return Ok(()),
                Err(error) => backoff.pause_after(error).await?,
            }
        }
    }

    async fn patch(
        &self,
        location: &Url,
        offset: u64,
        length: u64,
        upload: &Upload<'_>,
    ) -> Result<Response> {
        let last = offset + length - 1;
        let file = upload.file.try_clone();
        let file = Arc::new(file.map_err(|source| Error::Source {
            what: self.what.clone(),
            source,
        })?);
        self.send(Method::PATCH, location, |request| {
            let sent = Arc::clone(&upload.sent);
            let (body, progress) = FileBody::new(Arc::clone(&file), offset, length, sent);
            let request = request
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_RANGE, format!("{offset}-{last}"))
                .header(CONTENT_LENGTH, length)
                .body(reqwest::Body::wrap(body));
            (request, Some(progress))
        })
        .await
    }

    /// Sends a request, and once more with what a challenge asks for. `prepare` is called for each.
    async fn send(
        &self,
        method: Method,
        url: &Url,
        prepare: impl Fn(RequestBuilder) -> (RequestBuilder, Option<Arc<AtomicU64>>),
    ) -> Result<Response> {
        let patience = self.inner.config.progress_timeout;
        let own = self.endpoint.is_origin_of(url);
        let client = match own {
            true => self.endpoint.client.clone(),
            false => self.endpoint.foreign_client().await?,
        };
        let authorizer = &self.inner.authorizer;
        let mut given = match own {
            true => {
                authorizer
                    .header(self.endpoint, self.access, patience)
                    .await?
            }
            false => None,
        };
        let mut may_answer = own;
        loop {
            let mut request = client.request(method.clone(), url.clone());
            if own {
                let mut headers = self.endpoint.headers.clone();
                if let Some(given) = &given {
                    headers.insert(http::header::AUTHORIZATION, given.clone());
                }
                request = request.headers(headers);
            }
            let (request, progress) = prepare(request);
            let host = authority(url);
            let answer = match progress {
                Some(progress) => deliver_moving(request, &host, patience, &progress).await?,
                None => crate::request::deliver(request, &host, patience).await?,
            };
            if answer.status() == StatusCode::UNAUTHORIZED && may_answer {
                may_answer = false;
                let challenges = challenge::all(answer.headers());
                let next = authorizer
                    .answer(self.endpoint, self.access, &challenges, patience)
                    .await?;
                if next.is_some() && next != given {
                    given = next;
                    continue;
                }
            }
            if answer.status().is_redirection() && method == Method::HEAD {
                let (what, host) = (self.what.clone(), host);
                let reason = "to where it is stored";
                return Err(Error::BadRedirect { what, host, reason });
            }
            if answer.status().is_success() {
                return Ok(answer);
            }
            return Err(failure(answer, &self.what, &host, patience).await);
        }
    }

    /// Where the upload goes on.
    fn location(&self, from: &Url, answer: &Response) -> Result<Url> {
        let told = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
        let bad = |reason: &'static str| Error::BadRedirect {
            what: self.what.clone(),
            host: self.endpoint.authority.clone(),
            reason,
        };
        let told = told.ok_or_else(|| bad("without saying where the upload goes on"))?;
        let mut next = from
            .join(told)
            .map_err(|_| bad("an upload to something that is no URL"))?;
        if !matches!(next.scheme(), "http" | "https") || !next.has_host() {
            return Err(bad("an upload to something that is not HTTP"));
        }
        // A proxy that ends TLS hides from the registry that it was used.
        if from.scheme() == "https" && next.scheme() == "http" && next.host() == from.host() {
            let _ = next.set_scheme("https");
        }
        if from.scheme() == "https" && next.scheme() == "http" {
            return Err(bad("an upload from HTTPS to plain HTTP"));
        }
        // The HTTP client would turn these into an Authorization header.
        let _ = (next.set_username(""), next.set_password(None));
        Ok(next)
    }
}

/// Bytes that an upload has: `Range: 0-<last>`; a registry that says nothing has none.
fn received(answer: &Response) -> u64 {
    let range = answer.headers().get(RANGE).and_then(|r| r.to_str().ok());
    range.map_or(0, parse_received)
}

fn parse_received(range: &str) -> u64 {
    let bare = range.trim().trim_start_matches("bytes=");
    match bare.split_once('-') {
        // An empty upload says 0-0, and so does one of a single byte: that is sent again.
        Some(("0", "0")) => 0,
        Some(("0", last)) => last.parse::<u64>().map_or(0, |last| last + 1),
        _ => 0,
    }
}

/// Sends a request whose body takes its time: it is given up when nothing moves.
async fn deliver_moving(
    request: RequestBuilder,
    host: &str,
    patience: Duration,
    progress: &AtomicU64,
) -> Result<Response> {
    let mut answer = std::pin::pin!(request.send());
    let mut seen = progress.load(Ordering::Relaxed);
    loop {
        match tokio::time::timeout(patience, &mut answer).await {
            Ok(answer) => return answer.map_err(|error| Error::transport(host, error)),
            Err(_) => {
                let now = progress.load(Ordering::Relaxed);
                if now == seen {
                    return Err(Error::stalled(host, patience));
                }
                seen = now;
            }
        }
    }
}

/// A part of a file as the body of a request.
struct FileBody {
    pieces: mpsc::Receiver<std::io::Result<Bytes>>,
    left: u64,
    sent: Arc<AtomicU64>,
}

impl FileBody {
    fn new(
        file: Arc<File>,
        offset: u64,
        length: u64,
        sent: Arc<AtomicU64>,
    ) -> (Self, Arc<AtomicU64>) {
        let (sender, pieces) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || read(&file, offset, length, &sender));
        sent.store(offset, Ordering::Relaxed);
        let body = Self {
            pieces,
            left: length,
            sent: Arc::clone(&sent),
        };
        (body, sent)
    }
}

/// Ends when the receiver has gone.
fn read(file: &File, mut offset: u64, length: u64, sender: &mpsc::Sender<std::io::Result<Bytes>>) {
    let end = offset + length;
    while offset < end {
        let wanted = usize::try_from(end - offset).map_or(BUFFER, |left| left.min(BUFFER));
        let mut buffer = vec![0; wanted];
        let piece = file.read_exact_at(&mut buffer, offset);
        let failed = piece.is_err();
        offset += wanted as u64;
        let piece = piece.map(|()| Bytes::from(buffer));
        if sender.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        let piece = std::task::ready!(self.pieces.poll_recv(context));
        Poll::Ready(piece.map(|piece| {
            piece.map(|bytes| {
                self.left = self.left.saturating_sub(bytes.len() as u64);
                self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Frame::data(bytes)
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::parse_received;

    #[test]
    fn what_an_upload_has_is_read_from_its_range() {
        for (range, expected) in [
            ("0-0", 0),
            ("0-9", 10),
            ("bytes=0-9", 10),
            ("5-9", 0),
            ("", 0),
            ("x", 0),
        ] {
            assert_eq!(parse_received(range), expected, "{range}");
        }
    }
}
