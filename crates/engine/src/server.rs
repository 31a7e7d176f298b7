//! Connections, and what every answer has.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use berth_tls::Tls;
use http::{HeaderName, HeaderValue, Request, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::timeout;
use tower::ServiceExt;
use tracing::Instrument;

use crate::version::{self, ApiVersion};
use crate::{Engine, Error, Result, routes, unread};

/// For the head of a request to arrive once it began.
const PATIENCE: Duration = Duration::from_secs(60);

/// For a client to say who it is.
const GREETING: Duration = Duration::from_secs(10);

/// Serves until the future is dropped; connections end with it only if the daemon does.
pub async fn serve(engine: Arc<Engine>, listener: UnixListener) {
    let router = routes::all(Arc::clone(&engine));
    loop {
        if let Some(stream) = accepted(listener.accept().await).await {
            tokio::spawn(converse(stream, router.clone(), Arc::clone(&engine)));
        }
    }
}

/// Like [`serve`], over the network: whoever is let in owns the node, so that clients have to prove
/// who they are.
pub async fn serve_remote(engine: Arc<Engine>, listener: TcpListener, tls: Tls) {
    let router = routes::all(Arc::clone(&engine));
    loop {
        if let Some(stream) = accepted(listener.accept().await).await {
            let _ = stream.set_nodelay(true);
            let (tls, router, engine) = (tls.clone(), router.clone(), Arc::clone(&engine));
            tokio::spawn(async move {
                match timeout(GREETING, tls.accept(stream)).await {
                    Ok(Ok(stream)) => converse(stream, router, engine).await,
                    Ok(Err(error)) => tracing::info!(%error, "a remote client was not let in"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            });
        }
    }
}

async fn accepted<S, A>(accepted: io::Result<(S, A)>) -> Option<S> {
    match accepted {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "a Docker client was not accepted");
            // Out of descriptors, most likely: trying at once would only spin.
            tokio::time::sleep(Duration::from_secs(1)).await;
            None
        }
    }
}

async fn converse<S>(stream: S, router: Router, engine: Arc<Engine>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let answer = service_fn(move |request| {
        let (router, engine) = (router.clone(), Arc::clone(&engine));
        async move { Ok::<_, Infallible>(answer(request, router, &engine).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a Docker client's connection broke off");
    }
}

async fn answer(request: Request<Incoming>, router: Router, engine: &Engine) -> Response {
    let span =
        tracing::info_span!("docker", method = %request.method(), path = request.uri().path());
    let (head, body) = request.into_parts();
    let (lent, lender) = unread::lend(body);
    let request = Request::from_parts(head, Body::new(lent));
    let routed = async {
        match with_version(request) {
            Ok(request) => match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Err(error) => error.into_response(),
        }
    };
    let mut response = routed.instrument(span).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        lender.read_rest().await;
    }
    add_headers(&mut response, engine);
    response
}

/// Takes the version out of the path.
fn with_version(mut request: Request<Body>) -> Result<Request<Body>> {
    let (version, rest) = version::negotiate(request.uri().path())?;
    let mut target = rest.to_owned();
    if let Some(query) = request.uri().query() {
        target.push('?');
        target.push_str(query);
    }
    let uri = Uri::try_from(target).map_err(|_| Error::NoRoute)?;
    *request.uri_mut() = uri;
    request.extensions_mut().insert::<ApiVersion>(version);
    Ok(request)
}

/// By which clients learn, from any answer, whom they talk to.
fn add_headers(response: &mut Response, engine: &Engine) {
    let server = format!("Berth/{} (linux)", engine.facts.version);
    let version = ApiVersion::MAX.to_string();
    let experimental = match engine.facts.experimental {
        true => "true",
        false => "false",
    };
    for (name, value) in [
        ("api-version", version.as_str()),
        ("docker-experimental", experimental),
        ("ostype", "linux"),
        ("server", server.as_str()),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            let name = HeaderName::from_static(name);
            response.headers_mut().insert(name, value);
        }
    }
}
