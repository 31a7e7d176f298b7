//! Serving one container's sockets.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_names::ContainerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::message::{self, A, AAAA, Code, IN, PTR, Query, Record, Unreadable};
use super::upstream::Upstream;
use super::{ADDRESS, Directory, Resolvers};
use crate::error::{Error, Result};
use crate::firewall::redirect_resolver;
use crate::pod::{Dns, Protocol};

/// A question that is longer is none; answers may be.
const LARGEST_QUESTION: usize = 4096;
/// What one container may have asked of others at a time, and all of them together.
const MOST_FORWARDED: usize = 128;
const MOST_FORWARDED_IN_ALL: usize = 1024;
const MOST_CONNECTIONS: usize = 16;
/// Questions on one connection.
const MOST_QUESTIONS: usize = 100;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// More questions in this time wait in the socket, or are lost there.
const WINDOW: Duration = Duration::from_millis(100);
const MOST_IN_WINDOW: u32 = 2000;

/// The sockets of a container, made in its namespace.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

/// Makes the sockets in the calling thread's network namespace, whose loopback is up, and leads the
/// resolver's port to them.
pub(crate) fn open_here() -> Result<Sockets> {
    let failed = |source| Error::Io {
        operation: "make the resolver's sockets at",
        path: ADDRESS.to_string().into(),
        source,
    };
    let make = || {
        let udp = std::net::UdpSocket::bind((ADDRESS, 0))?;
        let tcp = std::net::TcpListener::bind((ADDRESS, 0))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let ports = [
            (Protocol::Udp, udp.local_addr()?.port()),
            (Protocol::Tcp, tcp.local_addr()?.port()),
        ];
        io::Result::Ok((Sockets { udp, tcp }, ports))
    };
    let (sockets, ports) = make().map_err(failed)?;
    redirect_resolver(ADDRESS, ports)?;
    Ok(sockets)
}

/// What all containers' resolvers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub directory: Directory,
    /// Where the host's resolvers are named; read for each question that is handed on.
    resolv_conf: PathBuf,
    forwarded: Semaphore,
}

impl Shared {
    pub(crate) fn new(resolv_conf: PathBuf) -> Self {
        Self {
            directory: Directory::default(),
            resolv_conf,
            forwarded: Semaphore::new(MOST_FORWARDED_IN_ALL),
        }
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub container: ContainerId,
    pub netns: PathBuf,
    pub dns: Dns,
}

/// A container's resolver. It ends when this is dropped, and with it the last hold on the
/// container's namespace.
#[derive(Debug)]
pub(crate) struct Server {
    tasks: [AbortHandle; 2],
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Server {
    pub(crate) fn start(
        runtime: &Handle,
        sockets: Sockets,
        shared: Arc<Shared>,
        client: Client,
    ) -> Result<Self> {
        let _entered = runtime.enter();
        let failed = |source| Error::Io {
            operation: "serve the resolver's sockets at",
            path: ADDRESS.to_string().into(),
            source,
        };
        let udp = UdpSocket::from_std(sockets.udp).map_err(failed)?;
        let tcp = TcpListener::from_std(sockets.tcp).map_err(failed)?;
        let asked = Arc::new(Asked {
            shared,
            client,
            forwarded: Semaphore::new(MOST_FORWARDED),
        });
        let datagrams = runtime.spawn(datagrams(Arc::new(udp), Arc::clone(&asked)));
        let connections = runtime.spawn(connections(tcp, asked));
        Ok(Self {
            tasks: [datagrams.abort_handle(), connections.abort_handle()],
        })
    }
}

/// One container's questions.
struct Asked {
    shared: Arc<Shared>,
    client: Client,
    forwarded: Semaphore,
}

/// What becomes of a message.
enum Outcome {
    Reply(Vec<u8>),
    Forward,
    Nothing,
}

async fn datagrams(socket: Arc<UdpSocket>, asked: Arc<Asked>) {
    let mut buffer = vec![0; LARGEST_QUESTION + 1];
    // Questions under way end with this task.
    let mut forwards = JoinSet::new();
    let mut pace = Pace::new();
    loop {
        pace.wait().await;
        while forwards.try_join_next().is_some() {}
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // Without a pause an error that stays would be asked for all the time.
            sleep(WINDOW).await;
            continue;
        };
        let bytes = &buffer[..length];
        match asked.decide(bytes, true) {
            // A full socket loses answers as the network does.
            Outcome::Reply(reply) => _ = socket.try_send_to(&reply, from),
            Outcome::Forward if forwards.len() < MOST_FORWARDED => {
                let task = forward(
                    Arc::clone(&socket),
                    Arc::clone(&asked),
                    bytes.to_vec(),
                    from,
                );
                forwards.spawn(task);
            }
            Outcome::Forward => {
                if let Ok(query) = message::parse(bytes) {
                    let reply = query.reply(Code::ServerFailure, &[], true);
                    let _ = socket.try_send_to(&reply, from);
                }
            }
            Outcome::Nothing => {}
        }
    }
}

async fn forward(socket: Arc<UdpSocket>, asked: Arc<Asked>, bytes: Vec<u8>, from: SocketAddr) {
    let reply = asked.forward(&bytes, true).await;
    let _ = socket.try_send_to(&reply, from);
}

async fn connections(listener: TcpListener, asked: Arc<Asked>) {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        if open.len() >= MOST_CONNECTIONS {
            open.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => _ = open.spawn(connection(stream, Arc::clone(&asked))),
            Err(_) => sleep(WINDOW).await,
        }
    }
}

async fn connection(mut stream: TcpStream, asked: Arc<Asked>) {
    for _ in 0..MOST_QUESTIONS {
        let Ok(Ok(bytes)) = timeout(SILENCE, read(&mut stream)).await else {
            return;
        };
        let reply = match asked.decide(&bytes, false) {
            Outcome::Reply(reply) => reply,
            Outcome::Forward => asked.forward(&bytes, false).await,
            Outcome::Nothing => return,
        };
        let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
        let Ok(Ok(())) = timeout(SILENCE, stream.write_all(&framed)).await else {
            return;
        };
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > LARGEST_QUESTION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

impl Asked {
    fn decide(&self, bytes: &[u8], datagram: bool) -> Outcome {
        if bytes.len() > LARGEST_QUESTION {
            return Outcome::Nothing;
        }
        let query = match message::parse(bytes) {
            Ok(query) => query,
            Err(Unreadable::Ignored) => return Outcome::Nothing,
            Err(Unreadable::Refused(code)) => return Outcome::Reply(message::refusal(bytes, code)),
        };
        match self.local(&query) {
            Some(records) => Outcome::Reply(query.reply(Code::NoError, &records, datagram)),
            None => Outcome::Forward,
        }
    }

    /// What is known here; for a name that is, all of it: nobody else is asked about it.
    fn local(&self, query: &Query<'_>) -> Option<Vec<Record>> {
        let name = query.name.as_deref().filter(|_| query.class == IN)?;
        let container = &self.client.container;
        if query.kind == PTR {
            let address = message::address_asked(name)?;
            let holder = self.shared.directory.name(container, address)?;
            return Some(vec![Record::Name(holder)]);
        }
        let addresses = self.shared.directory.addresses(container, name)?;
        let asked = addresses.into_iter().filter(|address| match query.kind {
            A => address.is_ipv4(),
            AAAA => address.is_ipv6(),
            _ => false,
        });
        Some(asked.map(Record::Address).collect())
    }

    /// Asks others, or says that nobody could be asked.
    async fn forward(&self, bytes: &[u8], datagram: bool) -> Vec<u8> {
        let Ok(query) = message::parse(bytes) else {
            return Vec::new();
        };
        let answer = match (
            self.shared.forwarded.try_acquire(),
            self.forwarded.try_acquire(),
        ) {
            (Ok(_all), Ok(_own)) => self.upstream().ask(&query, datagram).await,
            _ => None,
        };
        answer.unwrap_or_else(|| query.reply(Code::ServerFailure, &[], datagram))
    }

    fn upstream(&self) -> Upstream {
        let own = self.client.dns.servers.iter();
        let own = Resolvers {
            servers: own.filter_map(|server| server.parse().ok()).collect(),
            ..Resolvers::default()
        };
        if !own.servers.is_empty() {
            return Upstream {
                servers: own.targets(),
                netns: Some(self.client.netns.clone()),
            };
        }
        let servers = match self.shared.directory.outward(&self.client.container) {
            true => Resolvers::read(&self.shared.resolv_conf).targets(),
            false => Vec::new(),
        };
        Upstream {
            servers,
            netns: None,
        }
    }
}

/// Lets so many questions pass in a time.
struct Pace {
    until: Instant,
    left: u32,
}

impl Pace {
    fn new() -> Self {
        Self {
            until: Instant::now() + WINDOW,
            left: MOST_IN_WINDOW,
        }
    }

    async fn wait(&mut self) {
        if self.left == 0 {
            sleep_until(self.until).await;
        }
        if self.left == 0 || Instant::now() >= self.until {
            *self = Self::new();
        }
        self.left -= 1;
    }
}
