//! The bare connection, after the head of an answer: attach and exec.
//!
//! A client that asks for an upgrade to `tcp` gets 101, and both sides may be closed on their own:
//! a client that is at the end of its input still gets output. One that does not ask gets 200 and
//! the output as the answer's body, unframed, to the end of the connection; its input is the
//! request's body.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use berth_kernel::unread_by_peer;
use futures::TryStreamExt;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, StatusCode, Version};
use hyper::upgrade::Parts;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::{Instant, Sleep};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::version::ApiVersion;
use crate::{Error, Result};

/// Bytes of output on their way to a client without upgrade.
const PIPE: usize = 64 << 10;

/// Between two looks whether a client has read the head, and how many there are.
const LOOK: Duration = Duration::from_millis(1);
const LOOKS: u32 = 100;

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// What the client types, beginning with what came along with the request.
pub type Input = Pin<Box<dyn AsyncRead + Send>>;
/// What the client is shown. Shutting it down tells the client that there is no more.
pub type Output = Pin<Box<dyn AsyncWrite + Send>>;

/// The media type of output with or without frames.
pub fn media_type(terminal: bool, version: ApiVersion) -> &'static str {
    if terminal || version < ApiVersion::new(42) {
        RAW
    } else {
        MULTIPLEXED
    }
}

/// Both directions of a connection, when they are there.
pub type Streams = Pin<Box<dyn Future<Output = Result<(Input, Output)>> + Send>>;

/// The answer, and the two directions once the answer was sent.
pub struct Hijacked {
    pub response: Response,
    pub streams: Streams,
}

/// Takes the request's connection over. The streams come only after the response was returned:
/// await them in a task of their own.
pub fn hijack(request: Request, media_type: &'static str) -> Hijacked {
    let mut hijacked = if request.headers().contains_key(UPGRADE) {
        upgraded(request)
    } else {
        bare(request)
    };
    let kind = HeaderValue::from_static(media_type);
    hijacked.response.headers_mut().insert(CONTENT_TYPE, kind);
    hijacked
}

fn upgraded(mut request: Request) -> Hijacked {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    let upgraded = hyper::upgrade::on(&mut request);
    let streams = async move {
        let connection = upgraded.await.map_err(Error::Hijack)?;
        Ok(match connection.downcast::<TokioIo<UnixStream>>() {
            Ok(parts) => local(parts),
            Err(connection) => {
                let (input, output) = tokio::io::split(TokioIo::new(connection));
                (Box::pin(input) as Input, Box::pin(output) as Output)
            }
        })
    };
    Hijacked {
        response,
        streams: Box::pin(streams),
    }
}

fn local(parts: Parts<TokioIo<UnixStream>>) -> (Input, Output) {
    let (input, output) = parts.io.into_inner().into_split();
    let early = std::io::Cursor::new(parts.read_buf);
    (
        Box::pin(early.chain(input)),
        Box::pin(AfterHead::new(output)),
    )
}

/// Holds output back until the client has read the head of the answer. Clients that read it through
/// a buffer, docker-py among them, would lose what comes along with it.
struct AfterHead {
    output: OwnedWriteHalf,
    /// Whether the head may still be unread, and when to look again.
    wait: Option<Pin<Box<Sleep>>>,
    looks: u32,
}

impl AfterHead {
    fn new(output: OwnedWriteHalf) -> Self {
        Self {
            output,
            wait: Some(Box::pin(tokio::time::sleep(Duration::ZERO))),
            looks: 0,
        }
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while let Some(wait) = &mut self.wait {
            let unread = unread_by_peer(self.output.as_ref()).unwrap_or(0);
            if unread == 0 || self.looks == LOOKS {
                self.wait = None;
                break;
            }
            if wait.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.looks += 1;
            wait.as_mut().reset(Instant::now() + LOOK);
        }
        Poll::Ready(())
    }
}

impl AsyncWrite for AfterHead {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_head(context));
        Pin::new(&mut self.output).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_shutdown(context)
    }
}

fn bare(request: Request) -> Hijacked {
    let (output, shown) = tokio::io::duplex(PIPE);
    let mut response = Response::new(Body::from_stream(ReaderStream::new(shown)));
    // Without chunks: such clients read the connection itself.
    *response.version_mut() = Version::HTTP_10;
    let typed = request.into_body().into_data_stream();
    let input = StreamReader::new(typed.map_err(std::io::Error::other));
    let streams = async move { Ok((Box::pin(input) as Input, Box::pin(output) as Output)) };
    Hijacked {
        response,
        streams: Box::pin(streams),
    }
}
