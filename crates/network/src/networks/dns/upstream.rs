//! Asking others: message in, message out. Each question has a socket and an id of its own, so that
//! nobody who cannot see it can answer it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::message::{self, Query};
use crate::error::Result;
use crate::threads;

/// A client asks again after five seconds: by then another server has had its turn.
const PATIENCE: Duration = Duration::from_secs(2);
const LARGEST: usize = u16::MAX as usize;
/// "The server failed", "the server does not want to": another one may know.
const NO_ANSWERS: [u16; 2] = [2, 5];

/// Whom to ask for a container.
#[derive(Debug, Clone)]
pub(super) struct Upstream {
    pub servers: Vec<SocketAddr>,
    /// A container's own servers are asked from its own network, the host's from the host's.
    pub netns: Option<PathBuf>,
}

impl Upstream {
    /// Asks one server after another; `None` where nobody answered.
    pub(super) async fn ask(&self, query: &Query<'_>, datagram: bool) -> Option<Vec<u8>> {
        let mut last = None;
        for server in &self.servers {
            let asked = match datagram {
                true => timeout(PATIENCE, self.by_datagram(query, *server)).await,
                false => timeout(PATIENCE, self.by_stream(query, *server)).await,
            };
            let Ok(Ok(mut answer)) = asked else {
                continue;
            };
            let failed = NO_ANSWERS.contains(&message::code_of(&answer));
            if let Some(id) = query.bytes().first_chunk::<2>() {
                message::set_id(&mut answer, *id);
            }
            last = Some(answer);
            if !failed {
                break;
            }
        }
        last
    }

    async fn by_datagram(&self, query: &Query<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
        let socket = self.socket(server, SocketType::DGRAM).await?;
        let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
        socket.connect(server).await?;
        let (id, bytes) = disguised(query)?;
        socket.send(&bytes).await?;
        let mut buffer = vec![0; LARGEST];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if query.answered_by(&buffer[..length], id) {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }

    async fn by_stream(&self, query: &Query<'_>, server: SocketAddr) -> io::Result<Vec<u8>> {
        let socket = self.socket(server, SocketType::STREAM).await?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        let mut stream = socket.connect(server).await?;
        let (id, bytes) = disguised(query)?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream
            .write_all(&[&length.to_be_bytes()[..], &bytes].concat())
            .await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await?;
        match query.answered_by(&answer, id) {
            true => Ok(answer),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    async fn socket(
        &self,
        server: SocketAddr,
        kind: SocketType,
    ) -> io::Result<std::os::fd::OwnedFd> {
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let make = move || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(family, kind, flags, None)?;
            // Bound, the port is a random one at once.
            if kind == SocketType::DGRAM {
                let any = match server {
                    SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                    SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                };
                rustix::net::bind(&socket, &any)?;
            }
            io::Result::Ok(socket)
        };
        match self.netns.clone() {
            Some(netns) => made_in(netns, make).await.map_err(io::Error::other)?,
            None => make(),
        }
    }
}

async fn made_in<T: Send + 'static>(
    netns: PathBuf,
    make: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    threads::run_async("berth-resolve", move || {
        let path: &Path = &netns;
        threads::enter_netns(&threads::open_netns(path)?, path)?;
        Ok(make())
    })
    .await
}

/// The question with an id that its asker does not know.
fn disguised(query: &Query<'_>) -> io::Result<(u16, Vec<u8>)> {
    let id: [u8; 2] = crate::networks::random().map_err(io::Error::other)?;
    let mut bytes = query.bytes().to_vec();
    message::set_id(&mut bytes, id);
    Ok((u16::from_be_bytes(id), bytes))
}
