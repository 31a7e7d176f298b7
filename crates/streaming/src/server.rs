//! The HTTP server that clients follow their URL to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::forward::{self, Pair, announcement};
use crate::handshake::{Answer, Protocol, negotiate, refusal};
use crate::link::{self, Activity, Ended, Limits};
use crate::mux::{self, Outbound, Queue};
use crate::presence::Presence;
use crate::request::{Request, Streams};
use crate::session::{self, Channels};
use crate::spdy;
use crate::status::{Form, chain};
use crate::tokens::Tokens;
use crate::{tunnel, websocket};
use berth_tls::Tls;

/// How long a client may take for its TLS handshake, and for the head of its request.
const GREETING: Duration = Duration::from_secs(10);
/// Streams that wait to be looked at.
const OPENED: usize = 16;

#[derive(Debug, Clone)]
pub struct Config {
    /// Port 0 takes any that is free.
    pub address: SocketAddr,
    /// The host in URLs, with a port if it is not the one that is listened on; empty means the
    /// address.
    pub advertise: String,
    pub tls: Option<Tls>,
    /// A connection without data for this long is closed; zero means never.
    pub idle: Duration,
    /// A connection is closed after this; zero means never.
    pub total: Duration,
    /// How long a client may take to open its streams.
    pub creation: Duration,
    pub token_lifetime: Duration,
    /// Requests that wait for their client at one time.
    pub tokens: usize,
    /// Clients at one time; more wait to be accepted.
    pub connections: usize,
}

/// Hands out URLs. Cheap to clone.
#[derive(Clone)]
pub struct Urls {
    tokens: Arc<Tokens>,
    base: Arc<str>,
}

impl Urls {
    /// A URL at which the request is served once. Fails where the request cannot be meant.
    pub fn issue(&self, request: Request) -> Result<String> {
        request.check()?;
        let kind = request.kind();
        let token = self.tokens.issue(request)?;
        Ok(format!("{}/{kind}/{token}", self.base))
    }
}

pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    tls: Option<Tls>,
    connections: usize,
}

struct Shared {
    tokens: Arc<Tokens>,
    backend: Arc<dyn Backend>,
    limits: Limits,
    creation: Duration,
}

impl Server {
    /// Listens; nothing is accepted before [`Server::serve`].
    pub async fn bind(config: Config, backend: Arc<dyn Backend>) -> Result<(Self, Urls)> {
        let failed = |source| Error::Listen {
            address: config.address,
            source,
        };
        let listener = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let tokens = Arc::new(Tokens::new(config.token_lifetime, config.tokens));
        let scheme = if config.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let base = format!("{scheme}://{}", authority(&config.advertise, address));
        let urls = Urls {
            tokens: Arc::clone(&tokens),
            base: base.into(),
        };
        let server = Self {
            listener,
            address,
            tls: config.tls,
            connections: config.connections,
            shared: Arc::new(Shared {
                tokens,
                backend,
                limits: Limits {
                    idle: config.idle,
                    total: config.total,
                },
                creation: config.creation,
            }),
        };
        Ok((server, urls))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until dropped, and ends all connections then.
    pub async fn serve(self) {
        let room = Arc::new(Semaphore::new(self.connections));
        let mut clients = JoinSet::new();
        loop {
            while clients.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or the client was faster: trying at once would spin.
                    tracing::warn!(%error, "a streaming client could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
            clients.spawn(async move {
                client(shared, tls, stream).await;
                drop(place);
            });
        }
    }
}

fn authority(advertise: &str, address: SocketAddr) -> String {
    if advertise.is_empty() {
        return address.to_string();
    }
    if advertise.parse::<SocketAddr>().is_ok() {
        return advertise.to_owned();
    }
    match advertise.parse::<std::net::IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, address.port()).to_string(),
        Err(_) if advertise.contains(':') => advertise.to_owned(),
        Err(_) => format!("{advertise}:{}", address.port()),
    }
}

async fn client(shared: Arc<Shared>, tls: Option<Tls>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let presence = match Presence::of(&stream) {
        Ok(presence) => presence,
        Err(error) => {
            tracing::warn!(%error, "a streaming client cannot be watched");
            return;
        }
    };
    match tls {
        None => converse(shared, stream, presence).await,
        Some(tls) => match timeout(GREETING, tls.accept(stream)).await {
            Ok(Ok(stream)) => converse(shared, stream, presence).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
}

/// One request, and what it is upgraded to. All in this task: when it ends, all has ended.
async fn converse<S>(shared: Arc<Shared>, stream: S, presence: Presence)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (hand_over, mut upgraded) = mpsc::channel(1);
    let service = service_fn(|mut request: http::Request<Incoming>| {
        let (wanted, answer) = answer(&shared, &request);
        if let Some(wanted) = wanted {
            let upgrade = hyper::upgrade::on(&mut request);
            let _ = hand_over.try_send((wanted, upgrade));
        }
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(GREETING)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = serving.await {
        tracing::debug!(%error, "a streaming client did not get through HTTP");
    }
    let Ok(((request, protocol), upgrade)) = upgraded.try_recv() else {
        return;
    };
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%error, "a streaming client did not upgrade");
            return;
        }
    };
    let kind = request.kind();
    let ended = carry(&shared, request, protocol, upgraded, &presence).await;
    tracing::debug!(kind, ?ended, "stream closed");
}

type Wanted = (Request, Protocol);

/// The token is spent here, whatever becomes of it.
fn answer(shared: &Shared, request: &http::Request<Incoming>) -> (Option<Wanted>, Answer) {
    let no = |status, message| (None, refusal(status, message));
    let mut path = request.uri().path().trim_start_matches('/').split('/');
    let (Some(kind), Some(token), None) = (path.next(), path.next(), path.next()) else {
        return no(StatusCode::NOT_FOUND, "there is nothing here");
    };
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return no(StatusCode::METHOD_NOT_ALLOWED, "use GET or POST");
    }
    let redeemed = shared.tokens.redeem(token);
    let Some(wanted) = redeemed.filter(|wanted| wanted.kind() == kind) else {
        return no(
            StatusCode::NOT_FOUND,
            "this URL is not known: it works once and for a short time, so ask for a new one",
        );
    };
    match negotiate(&wanted, request.headers()) {
        Ok((protocol, answer)) => (Some((wanted, protocol)), answer),
        Err(refusal) => (None, refusal),
    }
}

async fn carry(
    shared: &Shared,
    request: Request,
    protocol: Protocol,
    upgraded: Upgraded,
    presence: &Presence,
) -> Ended {
    let io = TokioIo::new(upgraded);
    match protocol {
        Protocol::Spdy { form, resizes } => {
            let session = |opened| over_spdy(shared, request, opened, form, resizes);
            spdy(shared, io, presence, session).await
        }
        Protocol::Tunnel => {
            let socket =
                WebSocketStream::from_raw_socket(io, Role::Server, Some(websocket::config())).await;
            let (near, carrying) = tunnel::open(socket);
            let session = |opened| over_spdy(shared, request, opened, Form::Json, true);
            let link = spdy(shared, near, presence, session);
            // The tunnel outlives the link by its last bytes.
            let (mut link, mut carrying) = (std::pin::pin!(link), std::pin::pin!(carrying));
            tokio::select! {
                ended = &mut link => {
                    let _ = timeout(Duration::from_secs(1), carrying).await;
                    ended
                }
                _ = &mut carrying => timeout(Duration::from_secs(1), link)
                    .await
                    .unwrap_or(Ended::ClientGone),
            }
        }
        Protocol::WebSocket(channels) => {
            let socket =
                WebSocketStream::from_raw_socket(io, Role::Server, Some(websocket::config())).await;
            over_websocket(shared, request, channels, socket, presence).await
        }
    }
}

async fn spdy<S, F>(
    shared: &Shared,
    io: S,
    presence: &Presence,
    session: impl FnOnce(mpsc::Receiver<spdy::Stream>) -> F,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    let (source, sink) = tokio::io::split(io);
    let (queue, messages) = mux::queue();
    let (opened, streams) = mpsc::channel(OPENED);
    let activity = Activity::default();
    let reader = async {
        if let Err(error) = spdy::read(source, queue.clone(), opened, &activity).await {
            tracing::debug!(error = chain(&error), "a SPDY connection broke");
        }
    };
    link::run(
        reader,
        spdy::write(sink, messages, &activity),
        session(streams),
        queue.clone(),
        &activity,
        shared.limits,
        presence,
    )
    .await
}

async fn over_spdy(
    shared: &Shared,
    request: Request,
    mut opened: mpsc::Receiver<spdy::Stream>,
    form: Form,
    resizes: bool,
) {
    let streams = match &request {
        Request::Exec(exec) => exec.streams,
        Request::Attach(attach) => attach.streams,
        Request::PortForward(pair) => {
            return forward::run(opened, &*shared.backend, &pair.pod, shared.creation).await;
        }
    };
    let collecting = session::collect(&mut opened, streams, form, resizes);
    let channels = match timeout(shared.creation, collecting).await {
        Ok(Some(channels)) => channels,
        Ok(None) => return,
        Err(_) => {
            tracing::info!("a client did not open its streams in time");
            return;
        }
    };
    drop(opened);
    run(shared, request, channels).await;
}

async fn run(shared: &Shared, request: Request, channels: Channels) {
    match request {
        Request::Exec(exec) => {
            let begun = shared.backend.exec(exec);
            session::run(begun, channels, "error executing command in container").await;
        }
        Request::Attach(attach) => {
            let begun = shared.backend.attach(attach);
            session::run(begun, channels, "error attaching to container").await;
        }
        Request::PortForward(_) => {}
    }
}

async fn over_websocket<S>(
    shared: &Shared,
    request: Request,
    channels: websocket::Channels,
    socket: WebSocketStream<S>,
    presence: &Presence,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sink, source) = socket.split();
    let (queue, messages) = mux::queue();
    let activity = Activity::default();
    let (takers, session): (_, futures::future::BoxFuture<'_, ()>) = match request {
        Request::PortForward(wanted) => {
            let (takers, pairs) = pairs(&wanted.ports, &queue);
            let session = forward_pairs(shared, wanted.pod, pairs);
            (takers, Box::pin(session))
        }
        request => {
            let (takers, ours) = standard(streams_of(&request), channels, &queue);
            let session = async {
                greet(&ours).await;
                run(shared, request, ours).await;
            };
            (takers, Box::pin(session))
        }
    };
    link::run(
        websocket::read(source, channels, takers, &activity),
        websocket::write(sink, channels, messages, &activity),
        session,
        queue.clone(),
        &activity,
        shared.limits,
        presence,
    )
    .await
}

fn streams_of(request: &Request) -> Streams {
    match request {
        Request::Exec(exec) => exec.streams,
        Request::Attach(attach) => attach.streams,
        Request::PortForward(_) => Streams::default(),
    }
}

type Takers = Vec<Option<mpsc::Sender<mux::Chunk>>>;

/// Channels 0 to 4: stdin, stdout, stderr, status, resize.
fn standard(streams: Streams, protocol: websocket::Channels, queue: &Queue) -> (Takers, Channels) {
    let outbound = |wanted: bool, id| wanted.then(|| Outbound::new(id, queue.clone()));
    let (stdin_taker, stdin) = mux::inbound();
    let (resize_taker, resize) = mux::inbound();
    let takers = vec![
        streams.stdin.then_some(stdin_taker),
        None,
        None,
        None,
        Some(resize_taker),
    ];
    let channels = Channels {
        stdin: streams.stdin.then_some(stdin),
        resize: Some(resize),
        stdout: outbound(streams.stdout, 1),
        stderr: outbound(streams.stderr, 2),
        status: Outbound::new(3, queue.clone()),
        form: protocol.form,
    };
    (takers, channels)
}

/// An empty message on the first channel that we write tells the client that all is set up.
async fn greet(channels: &Channels) {
    let first = [&channels.stdout, &channels.stderr].into_iter().flatten();
    let first = first.chain([&channels.status]).next();
    if let Some(first) = first {
        first.send(bytes::Bytes::new()).await;
    }
}

/// Channels 2n and 2n+1: data and errors of the port n.
fn pairs(ports: &[u16], queue: &Queue) -> (Takers, Vec<Pair>) {
    let (mut takers, mut pairs) = (Vec::new(), Vec::new());
    for (port, id) in ports.iter().zip((0..).step_by(2)) {
        let (taker, inbound) = mux::inbound();
        takers.extend([Some(taker), None]);
        pairs.push(Pair {
            port: *port,
            inbound,
            data: Outbound::new(id, queue.clone()),
            error: Outbound::new(id + 1, queue.clone()),
        });
    }
    (takers, pairs)
}

async fn forward_pairs(shared: &Shared, pod: String, pairs: Vec<Pair>) {
    let serving = pairs.into_iter().map(|pair| async {
        pair.data.send(announcement(pair.port)).await;
        pair.error.send(announcement(pair.port)).await;
        forward::serve(pair, &*shared.backend, &pod).await;
    });
    futures::future::join_all(serving).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_what_clients_can_reach() {
        let address = "127.0.0.1:1234".parse().unwrap();
        for (advertise, expected) in [
            ("", "127.0.0.1:1234"),
            ("10.0.0.1", "10.0.0.1:1234"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("fd00::1", "[fd00::1]:1234"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("node.example", "node.example:1234"),
            ("node.example:443", "node.example:443"),
        ] {
            assert_eq!(authority(advertise, address), expected);
        }
    }
}
