//! The server as clients meet it, with a backend that is a pipe.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use berth_streaming::{
    Attach, Attached, Backend, Config, Control, Exec, Failure, PortForward, Request, Server, Size,
    Streams, Tls, Urls,
};
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// Far more than anything here takes.
const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Resized(u16, u16),
    InputEnded,
    HungUp,
}

/// `cat` copies its input, `deaf` never reads it; both end with it, with status 3.
struct Pipes {
    events: mpsc::UnboundedSender<Event>,
    port: u16,
}

struct Cat {
    events: mpsc::UnboundedSender<Event>,
    over: Notify,
    _unread: Option<DuplexStream>,
}

impl Control for Cat {
    fn resize(&self, size: Size) -> BoxFuture<'_, ()> {
        let _ = self.events.send(Event::Resized(size.width, size.height));
        futures::future::ready(()).boxed()
    }

    fn close_stdin(&self) -> BoxFuture<'_, ()> {
        let _ = self.events.send(Event::InputEnded);
        self.over.notify_one();
        futures::future::ready(()).boxed()
    }

    fn ended(&self) -> BoxFuture<'_, Result<u32, Failure>> {
        async {
            self.over.notified().await;
            Ok(3)
        }
        .boxed()
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        let _ = self.events.send(Event::HungUp);
    }
}

impl Backend for Pipes {
    fn exec(&self, request: Exec) -> BoxFuture<'_, Result<Attached, Failure>> {
        let deaf = request.command == ["deaf"];
        let (near, far) = tokio::io::duplex(1024);
        let (stdout, unread) = if deaf {
            (None, Some(far))
        } else {
            (Some(far), None)
        };
        let control = Cat {
            events: self.events.clone(),
            over: Notify::new(),
            _unread: unread,
        };
        let attached = Attached {
            stdin: Some(Box::new(near)),
            stdout: stdout.map(|stdout| Box::new(stdout) as _),
            stderr: None,
            control: Box::new(control),
            ends_with_output: false,
        };
        let outcome = match request.command.first().map(String::as_str) {
            Some("missing") => Err("no such program".into()),
            _ => Ok(attached),
        };
        futures::future::ready(outcome).boxed()
    }

    fn attach(&self, _: Attach) -> BoxFuture<'_, Result<Attached, Failure>> {
        futures::future::ready(Err("nothing to attach to".into())).boxed()
    }

    fn dial<'a>(&'a self, _: &'a str, port: u16) -> BoxFuture<'a, Result<TcpStream, Failure>> {
        let target = if port == 80 { self.port } else { 1 };
        async move { Ok(TcpStream::connect(("127.0.0.1", target)).await?) }.boxed()
    }
}

struct House {
    urls: Urls,
    events: mpsc::UnboundedReceiver<Event>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for House {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn house(change: impl FnOnce(&mut Config)) -> House {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = echo.accept().await {
            let (mut read, mut write) = stream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
        }
    });
    let mut config = Config {
        address: "127.0.0.1:0".parse().unwrap(),
        advertise: String::new(),
        tls: None,
        idle: Duration::ZERO,
        total: Duration::ZERO,
        creation: SOON,
        token_lifetime: SOON,
        tokens: 10,
        connections: 10,
    };
    change(&mut config);
    let (sender, events) = mpsc::unbounded_channel();
    let backend = Pipes {
        events: sender,
        port,
    };
    let (server, urls) = Server::bind(config, Arc::new(backend)).await.unwrap();
    House {
        urls,
        events,
        serving: tokio::spawn(server.serve()),
    }
}

impl House {
    fn exec(&self, command: &str) -> String {
        let request = Request::Exec(Exec {
            container: "c".into(),
            command: vec![command.into()],
            streams: Streams {
                stdin: true,
                stdout: true,
                ..Streams::default()
            },
        });
        self.urls.issue(request).unwrap()
    }

    async fn event(&mut self) -> Event {
        timeout(SOON, self.events.recv()).await.unwrap().unwrap()
    }
}

async fn connect(url: &str) -> TcpStream {
    let host = url.split('/').nth(2).unwrap();
    TcpStream::connect(host).await.unwrap()
}

async fn open<S>(
    url: &str,
    protocol: &str,
    stream: S,
) -> Result<WebSocketStream<S>, tungstenite::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let url = url.replacen("http", "ws", 1);
    let mut request = url.into_client_request()?;
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", protocol.parse().unwrap());
    client_async(request, stream)
        .await
        .map(|(socket, _)| socket)
}

async fn websocket(url: &str, protocol: &str) -> WebSocketStream<TcpStream> {
    open(url, protocol, connect(url).await).await.unwrap()
}

/// All messages by channel, until the server closes.
async fn rest<S>(mut socket: WebSocketStream<S>) -> Vec<Vec<u8>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut channels = vec![Vec::new(); 5];
    loop {
        match timeout(SOON, socket.next()).await.unwrap() {
            Some(Ok(Message::Binary(message))) => {
                channels[usize::from(message[0])].extend_from_slice(&message[1..]);
            }
            Some(Ok(Message::Close(frame))) => {
                assert_eq!(frame.map(|frame| frame.code), Some(1000.into()));
                return channels;
            }
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn cat_over<S>(mut socket: WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let much = vec![b'x'; 100_000];
    for chunk in much.chunks(10_000) {
        let message = [&[0], chunk].concat();
        socket.send(Message::binary(message)).await.unwrap();
    }
    let size = b"\x04{\"Width\":80,\"Height\":24}";
    socket.send(Message::binary(&size[..])).await.unwrap();
    socket.send(Message::binary(&[255u8, 0][..])).await.unwrap();
    let channels = rest(socket).await;
    assert_eq!(channels[1], much);
    let status: serde_json::Value = serde_json::from_slice(&channels[3]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3");
}

#[tokio::test]
async fn a_command_gets_its_input_and_the_client_its_output_and_status() {
    let mut house = house(|_| {}).await;
    let url = house.exec("cat");
    cat_over(websocket(&url, "v5.channel.k8s.io").await).await;
    let mut seen = [house.event().await, house.event().await];
    seen.sort_by_key(|event| *event == Event::InputEnded);
    assert_eq!(seen, [Event::Resized(80, 24), Event::InputEnded]);
    assert_eq!(house.event().await, Event::HungUp);
}

#[tokio::test]
async fn what_cannot_begin_is_told_on_the_stream() {
    let house = house(|_| {}).await;
    let url = house.exec("missing");
    let channels = rest(websocket(&url, "v4.channel.k8s.io").await).await;
    let status: serde_json::Value = serde_json::from_slice(&channels[3]).unwrap();
    assert_eq!(status["reason"], "InternalError");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("no such program"), "{message}");
}

#[tokio::test]
async fn a_url_works_once_and_only_for_its_own_kind() {
    let house = house(|_| {}).await;
    let url = house.exec("cat");
    let _socket = websocket(&url, "v4.channel.k8s.io").await;
    let mut urls = vec![url, house.exec("cat").replace("/exec/", "/attach/")];
    urls.push(format!("{}x", house.exec("cat")));
    for url in urls {
        let refused = open(&url, "v4.channel.k8s.io", connect(&url).await).await;
        let Err(tungstenite::Error::Http(answer)) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(answer.status(), 404);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_hangs_up() {
    let mut house = house(|_| {}).await;
    let socket = websocket(&house.exec("cat"), "v4.channel.k8s.io").await;
    drop(socket);
    assert_eq!(house.event().await, Event::HungUp);
}

/// The reader is blocked by then: only the kernel knows that the client is gone.
#[tokio::test]
async fn a_client_is_missed_although_nobody_reads_what_it_sent() {
    let mut house = house(|_| {}).await;
    let mut socket = websocket(&house.exec("deaf"), "v4.channel.k8s.io").await;
    for _ in 0..4 {
        let message = vec![0; 200_000];
        let sent = timeout(
            Duration::from_millis(200),
            socket.send(Message::binary(message)),
        );
        if sent.await.is_err() {
            break;
        }
    }
    drop(socket);
    assert_eq!(house.event().await, Event::HungUp);
}

#[tokio::test]
async fn idle_and_overlong_streams_are_ended() {
    let short = Duration::from_millis(100);
    let limits: [fn(&mut Config, Duration); 2] = [
        |config, limit| config.idle = limit,
        |config, limit| config.total = limit,
    ];
    for limit in limits {
        let mut house = house(|config| limit(config, short)).await;
        let mut socket = websocket(&house.exec("cat"), "v4.channel.k8s.io").await;
        assert_eq!(house.event().await, Event::HungUp);
        while let Some(Ok(_)) = timeout(SOON, socket.next()).await.unwrap() {}
    }
}

#[tokio::test]
async fn a_client_that_opens_no_streams_is_let_go() {
    let house = house(|config| config.creation = Duration::from_millis(100)).await;
    let url = house.exec("cat");
    let mut stream = connect(&url).await;
    let path = url.splitn(4, '/').nth(3).unwrap();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    timeout(SOON, reading).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 101"), "{text}");
}

#[tokio::test]
async fn ports_are_forwarded_and_failures_told() {
    let house = house(|_| {}).await;
    let request = Request::PortForward(PortForward {
        pod: "p".into(),
        ports: vec![80, 81],
    });
    let url = house.urls.issue(request).unwrap();
    let mut socket = websocket(&url, "v4.channel.k8s.io").await;
    let message = Message::binary(&b"\0hello"[..]);
    socket.send(message).await.unwrap();
    let mut channels = vec![Vec::new(); 4];
    while channels[0].len() < 7 || channels[3].len() < 3 {
        let message = timeout(SOON, socket.next()).await.unwrap();
        let message = message.unwrap().unwrap().into_data();
        channels[usize::from(message[0])].extend_from_slice(&message[1..]);
    }
    assert_eq!(channels[0], b"\x50\0hello");
    assert_eq!(channels[1], b"\x50\0");
    assert_eq!(channels[2], b"\x51\0");
    let error = String::from_utf8_lossy(&channels[3][2..]).into_owned();
    assert!(error.contains("error forwarding port 81"), "{error}");
}

#[tokio::test]
async fn streams_are_served_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    std::fs::write(&cert, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    assert!(Tls::open(&key, &cert).is_err());
    let house = house(|config| {
        config.tls = Some(Tls::open(&cert, &key).unwrap());
        config.advertise = "localhost".into();
    })
    .await;
    let url = house.exec("cat");
    assert!(url.starts_with("https://localhost:"), "{url}");

    let mut roots = rustls::RootCertStore::empty();
    roots.add(signed.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = "localhost".try_into().unwrap();
    let plain = connect(&url).await;
    let stream = connector.connect(name, plain).await.unwrap();
    let socket = open(&url, "v5.channel.k8s.io", stream).await.unwrap();
    cat_over(socket).await;
}
