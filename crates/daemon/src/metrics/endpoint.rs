//! `GET /metrics` over plain HTTP, for a Prometheus on the same node.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections at once; others wait to be accepted.
const CONNECTIONS: usize = 16;
/// For a request to arrive, and so for how long a silent connection is kept.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens; what is told is not for everybody, so that other than loopback addresses are warned of.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on metrics.address {address}"))?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "metrics are served to the network, without authentication");
    }
    tracing::info!(%address, "serving metrics");
    Ok(listener)
}

/// Serves until the daemon ends.
pub async fn serve(listener: TcpListener, registry: Registry) {
    let registry = Arc::new(registry);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics was not accepted");
                // Out of descriptors, most likely: trying at once would only spin.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let registry = Arc::clone(&registry);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let response = answer(&registry, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection for metrics broke off");
            }
            drop(permit);
        });
    }
}

fn answer(registry: &Registry, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match encode(registry) {
            Ok(text) => (StatusCode::OK, FORMAT, text),
            Err(error) => {
                let text = format!("the metrics cannot be encoded: {error}\n");
                (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", text)
            }
        },
        (_, "/metrics") => {
            let text = "only GET is served\n".to_owned();
            (StatusCode::METHOD_NOT_ALLOWED, "text/plain", text)
        }
        _ => {
            let text = "metrics are at /metrics\n".to_owned();
            (StatusCode::NOT_FOUND, "text/plain", text)
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn encode(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    text::encode(&mut text, registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_scrape_gets_the_counts_and_nothing_else_is_served() {
        let mut registry = Registry::with_prefix("berth");
        let counter = Counter::<u64>::default();
        registry.register("things", "Things", counter.clone());
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, registry));
        counter.inc_by(3);
        let scraped = ask(address, "GET /metrics").await;
        assert!(scraped.starts_with("HTTP/1.1 200"), "{scraped}");
        assert!(scraped.contains("berth_things_total 3"), "{scraped}");
        assert!(scraped.trim_end().ends_with("# EOF"), "{scraped}");
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404"));
        assert!(
            ask(address, "POST /metrics")
                .await
                .starts_with("HTTP/1.1 405")
        );
        server.abort();
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_an_error_that_names_it() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = format!("{:#}", listen(address).await.unwrap_err());
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
