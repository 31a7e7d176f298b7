//! Port-forward: each pair of streams is one TCP connection into the pod.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::backend::Backend;
use crate::mux::{Chunk, Inbound, Outbound};
use crate::spdy;
use crate::status::chain;

const CHUNK: usize = 32 << 10;

/// One connection that is to be made.
#[derive(Debug)]
pub struct Pair {
    pub port: u16,
    pub inbound: Inbound,
    pub data: Outbound,
    pub error: Outbound,
}

/// A stream whose other half has not come.
struct Half {
    stream: spdy::Stream,
    kind: Kind,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Error,
}

/// Serves all pairs that the client opens, until it closes the connection.
pub async fn run(
    mut opened: mpsc::Receiver<spdy::Stream>,
    backend: &dyn Backend,
    pod: &str,
    patience: Duration,
) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut pairs = FuturesUnordered::new();
    loop {
        let next_expiry = halves.values().map(|half| half.until).min();
        let expiry = async {
            match next_expiry {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = opened.recv() => {
                let Some(stream) = stream else { return };
                if let Some(pair) = matched(stream, &mut halves, patience).await {
                    pairs.push(serve(pair, backend, pod));
                }
            }
            Some(()) = pairs.next() => {}
            () = expiry => expire(&mut halves).await,
        }
    }
}

async fn expire(halves: &mut HashMap<String, Half>) {
    let now = Instant::now();
    let due: Vec<String> = halves
        .iter()
        .filter(|(_, half)| half.until <= now)
        .map(|(request, _)| request.clone())
        .collect();
    for half in due.iter().filter_map(|request| halves.remove(request)) {
        half.stream.outbound.refuse().await;
    }
}

/// The pair that this stream completes.
async fn matched(
    stream: spdy::Stream,
    halves: &mut HashMap<String, Half>,
    patience: Duration,
) -> Option<Pair> {
    let kind = match stream.headers.get("streamtype") {
        Some("data") => Kind::Data,
        Some("error") => Kind::Error,
        _ => {
            stream.outbound.refuse().await;
            return None;
        }
    };
    let port = match port(stream.headers.get("port")) {
        Ok(port) => port,
        Err(problem) => {
            refuse(stream, kind, problem).await;
            return None;
        }
    };
    stream.outbound.accept().await;
    let request = request_id(&stream, kind);
    match halves.remove(&request) {
        None => {
            let until = Instant::now() + patience;
            halves.insert(
                request,
                Half {
                    stream,
                    kind,
                    until,
                },
            );
            None
        }
        Some(half) if half.kind == kind => {
            stream.outbound.refuse().await;
            halves.insert(request, half);
            None
        }
        Some(half) => {
            let (data, error) = match kind {
                Kind::Data => (stream, half.stream),
                Kind::Error => (half.stream, stream),
            };
            Some(Pair {
                port,
                inbound: data.inbound,
                data: data.outbound,
                error: error.outbound,
            })
        }
    }
}

/// What cannot be forwarded is said where the client listens for errors.
async fn refuse(stream: spdy::Stream, kind: Kind, problem: String) {
    tracing::info!(problem, "a forward was refused");
    if kind == Kind::Data {
        return stream.outbound.refuse().await;
    }
    stream.outbound.accept().await;
    stream.outbound.send(problem.into()).await;
    stream.outbound.end().await;
}

fn port(value: Option<&str>) -> Result<u16, String> {
    let text = value.ok_or("the stream names no port")?;
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ if text.to_ascii_lowercase().contains("udp") => Err(format!(
            "port {text:?} cannot be forwarded: port-forward carries TCP, not UDP"
        )),
        _ => Err(format!("{text:?} is not a TCP port: 1 to 65535")),
    }
}

/// Clients that give no id open the error stream and then the data stream, with numbers two apart.
fn request_id(stream: &spdy::Stream, kind: Kind) -> String {
    match (stream.headers.get("requestid"), kind) {
        (Some(id), _) => id.to_owned(),
        (None, Kind::Error) => format!("stream {}", stream.id),
        (None, Kind::Data) => format!("stream {}", stream.id.saturating_sub(2)),
    }
}

/// Connects and copies until the pod has closed or either side broke off.
pub async fn serve(pair: Pair, backend: &dyn Backend, pod: &str) {
    match backend.dial(pod, pair.port).await {
        Ok(connection) => copy(connection, pair.inbound, &pair.data).await,
        Err(failure) => {
            let port = pair.port;
            let text = chain(&*failure);
            let message = format!("error forwarding port {port} to pod {pod}: {text}");
            tracing::info!(error = message, "a forward failed");
            pair.error.send(message.into()).await;
        }
    }
    pair.data.end().await;
    pair.error.end().await;
}

/// The client may end its half first; when the pod ends its own, clients expect the whole to end.
async fn copy(connection: TcpStream, mut from: Inbound, to: &Outbound) {
    let _ = connection.set_nodelay(true);
    let (mut read, mut write) = connection.into_split();
    let inwards = async {
        loop {
            match from.next().await {
                Some(Chunk::Data(bytes)) => {
                    if write.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Some(Chunk::Reset) => return,
                None => {
                    let _ = write.shutdown().await;
                    break;
                }
            }
        }
        std::future::pending().await
    };
    let outwards = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            match read.read_buf(&mut buffer).await {
                Ok(count) if count > 0 => {
                    if !to.send(buffer.split().freeze()).await {
                        return;
                    }
                }
                _ => return,
            }
        }
    };
    tokio::select! {
        () = inwards => {}
        () = outwards => {}
    }
}

/// The first message on each channel of a WebSocket: the port, little-endian.
pub fn announcement(port: u16) -> Bytes {
    Bytes::copy_from_slice(&port.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tcp_ports_are_forwarded() {
        assert_eq!(port(Some("80")), Ok(80));
        assert!(
            port(Some("53/UDP"))
                .unwrap_err()
                .contains("carries TCP, not UDP")
        );
        for bad in [
            None,
            Some(""),
            Some("0"),
            Some("65536"),
            Some("-1"),
            Some("http"),
        ] {
            assert!(port(bad).is_err(), "{bad:?}");
        }
    }
}
