//! Archives between a connection and the blocking work that writes or reads them: bounded both ways.

use std::future::Future;
use std::io::{Read, Write};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{Error, Result};

/// Pieces that wait for the slower side.
const QUEUE: usize = 16;
const PIECE: usize = 64 << 10;
/// Bytes that are still received when nobody wants them: a client that is told of an error while it
/// sends may not see it.
const UNWANTED: usize = 64 << 20;

/// Answers with the archive that `write` writes. It is told that the client has gone by a write that
/// fails, and tells of its own failure by breaking the connection: the answer has begun.
pub fn archive<F>(write: impl FnOnce(Pieces) -> F) -> Response
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (response, pieces) = begin("application/x-tar");
    let failed = pieces.sender.clone();
    let written = write(pieces);
    tokio::spawn(async move {
        if let Err(error) = written.await {
            tracing::warn!(error = error.report(), "an archive broke off");
            let broken = std::io::Error::other("the archive broke off");
            let _ = failed.send(Err(broken)).await;
        }
    });
    response
}

/// An answer whose body is what is written.
pub fn begin(kind: &'static str) -> (Response, Pieces) {
    let (sender, pieces) = mpsc::channel(QUEUE);
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(pieces)));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    let piece = Vec::with_capacity(PIECE);
    (response, Pieces { sender, piece })
}

/// Runs blocking `work` away from the async workers.
pub async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(Error::Panicked { operation }))
}

/// Sends what is written in pieces of a sensible size; fails when the client has gone. Blocks.
pub struct Pieces {
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let sent = self.sender.blocking_send(Ok(piece.into()));
        sent.map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

/// A request's body, to be read where reading may block.
pub struct Arriving {
    pieces: mpsc::Receiver<std::io::Result<Bytes>>,
    piece: Bytes,
}

/// Begins to receive a body.
pub fn arriving(body: Body) -> Arriving {
    let (sender, pieces) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut body = body.into_data_stream();
        let mut unwanted = 0;
        while let Some(piece) = body.next().await {
            let length = piece.as_ref().map_or(UNWANTED, Bytes::len);
            let piece = piece.map_err(std::io::Error::other);
            if sender.send(piece).await.is_err() {
                unwanted += length;
                if unwanted > UNWANTED {
                    return;
                }
            }
        }
    });
    Arriving {
        pieces,
        piece: Bytes::new(),
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let taken = self.piece.split_to(self.piece.len().min(buffer.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}
