//! `GET /containers/{name}/attach/ws`: the same streams in messages of a WebSocket, without frames
//! of our own, both outputs in one.

use std::io;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt, TryStreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::io::StreamReader;

use super::attach::Joining;
use crate::{Engine, Error, Query, Result};

/// Bytes of output on their way to a client.
const PIPE: usize = 32 << 10;

pub async fn attach(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    query: Query,
    mut request: Request,
) -> Result<Response> {
    let key = request.headers().get(SEC_WEBSOCKET_KEY);
    let accept = key.map(|key| derive_accept_key(key.as_bytes()));
    let accept = accept.and_then(|accept| HeaderValue::from_str(&accept).ok());
    let accept = accept.ok_or_else(|| {
        Error::bad("not a WebSocket: attach/ws wants an upgrade to websocket, attach does not")
    })?;
    let joining = Joining::of(&engine, &name, &query).await?;
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(connection) = upgraded.await else {
            return;
        };
        let io = TokioIo::new(connection);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        let (messages, typed) = socket.split();
        let (output, shown) = tokio::io::duplex(PIPE);
        let input = StreamReader::new(Box::pin(bytes_of(typed)));
        tokio::join!(
            joining.serve_raw((Box::pin(input), Box::pin(output))),
            show(shown, messages)
        );
    });
    Ok(response)
}

/// What is typed, until the client closes.
fn bytes_of(
    messages: impl Stream<Item = Result<Message, tungstenite::Error>> + Send,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    messages
        .map_err(io::Error::other)
        .try_take_while(|message| {
            let open = !matches!(message, Message::Close(_));
            async move { Ok(open) }
        })
        .try_filter_map(|message| async move {
            Ok(match message {
                Message::Binary(bytes) => Some(bytes),
                Message::Text(text) => Some(text.into()),
                _ => None,
            })
        })
}

/// One message for what there is each time; the end closes the socket.
async fn show(
    mut shown: DuplexStream,
    mut messages: impl Sink<Message, Error = tungstenite::Error> + Unpin,
) {
    let mut buffer = vec![0; PIPE];
    while let Ok(count) = shown.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let bytes = Bytes::copy_from_slice(buffer.get(..count).unwrap_or_default());
        if messages.send(Message::Binary(bytes)).await.is_err() {
            // Whoever writes sees by this that nobody reads.
            return;
        }
    }
    let _ = messages.close().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_a_stream_of_bytes_up_to_the_close() {
        let messages = [
            Message::Text("a".into()),
            Message::Ping(Bytes::new()),
            Message::Binary(Bytes::from_static(b"b")),
            Message::Close(None),
            Message::Text("never".into()),
        ];
        let messages = futures::stream::iter(messages.map(Ok));
        let seen: Vec<Bytes> = Box::pin(bytes_of(messages)).try_collect().await.unwrap();
        assert_eq!(seen.concat(), b"ab");
    }

    #[tokio::test]
    async fn output_is_messages_and_its_end_the_close() {
        use tokio::io::AsyncWriteExt;
        let (mut output, shown) = tokio::io::duplex(PIPE);
        let (client, server) = tokio::io::duplex(PIPE);
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let (messages, _typed) = server.split();
        output.write_all(b"hello").await.unwrap();
        drop(output);
        let showing = tokio::spawn(show(shown, messages));
        let first = client.next().await.unwrap().unwrap();
        assert_eq!(first, Message::Binary(Bytes::from_static(b"hello")));
        assert!(client.next().await.unwrap().unwrap().is_close());
        showing.await.unwrap();
    }
}
