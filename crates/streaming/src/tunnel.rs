//! SPDY inside binary WebSocket messages (KEP-4006, port-forward): a plain stream of bytes.

use std::io;

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf,
};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const BUFFER: usize = 64 << 10;

/// The SPDY side, and the work of carrying it, which ends with the WebSocket or with the SPDY side.
pub fn open<S>(socket: WebSocketStream<S>) -> (DuplexStream, impl Future<Output = io::Result<()>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (near, far) = tokio::io::duplex(BUFFER);
    (near, carry(socket, far))
}

async fn carry<S>(socket: WebSocketStream<S>, far: DuplexStream) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut source) = socket.split();
    let (mut from_spdy, mut to_spdy): (ReadHalf<_>, WriteHalf<_>) = tokio::io::split(far);
    let inwards = async {
        while let Some(Ok(message)) = source.next().await {
            if let Message::Binary(bytes) = message {
                to_spdy.write_all(&bytes).await?;
            }
        }
        to_spdy.shutdown().await
    };
    let outwards = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(BUFFER);
            if from_spdy.read_buf(&mut buffer).await? == 0 {
                let close = Message::Close(None);
                return sink.send(close).await.map_err(io::Error::other);
            }
            let bytes = buffer.split().freeze();
            let message = Message::binary(bytes);
            sink.send(message).await.map_err(io::Error::other)?;
        }
    };
    tokio::try_join!(inwards, outwards).map(drop)
}
