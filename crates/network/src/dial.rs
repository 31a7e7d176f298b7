//! Connections into a pod, from the daemon itself.
//!
//! A socket belongs to the network namespace that it was made in, whoever connects it: only its
//! making needs a thread in there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::threads;

/// A loopback that drops packets, by rules of the pod's own, does not answer at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to a TCP port on the loopback of a network namespace, or of the host for none: to
/// 127.0.0.1, and where nobody listens there to ::1.
pub async fn dial(netns: Option<&Path>, port: u16) -> Result<TcpStream> {
    let failed = |source| Error::Dial { port, source };
    let sockets = match netns {
        Some(netns) => sockets_in(netns.to_owned()).await?,
        None => sockets().map_err(failed)?,
    };
    let (v4, v6) = sockets;
    let first = match connect(v4, Ipv4Addr::LOCALHOST.into(), port).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    // The first failure is told: hosts without IPv6 would otherwise hear of that.
    match v6 {
        Some(v6) => connect(v6, Ipv6Addr::LOCALHOST.into(), port)
            .await
            .map_err(|_| failed(first)),
        None => Err(failed(first)),
    }
}

/// The second is there where the kernel knows IPv6.
type Sockets = (OwnedFd, Option<OwnedFd>);

async fn sockets_in(netns: PathBuf) -> Result<Sockets> {
    threads::run_async("berth-dial", move || {
        threads::enter_netns(&threads::open_netns(&netns)?, &netns)?;
        sockets().map_err(|source| Error::Io {
            operation: "make a socket in the network namespace",
            path: netns,
            source,
        })
    })
    .await
}

fn sockets() -> io::Result<Sockets> {
    let make = |family| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(family, SocketType::STREAM, flags, None)
    };
    Ok((make(AddressFamily::INET)?, make(AddressFamily::INET6).ok()))
}

async fn connect(socket: OwnedFd, address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    let connecting = socket.connect(SocketAddr::new(address, port));
    timeout(PATIENCE, connecting)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_listener_is_found_on_either_loopback() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else {
                println!("skipped: {address} cannot be bound here");
                continue;
            };
            let bound = listener.local_addr().unwrap();
            let stream = dial(None, bound.port()).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), bound);
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_an_error_with_the_port() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = dial(None, port).await.unwrap_err();
        assert!(error.to_string().contains(&port.to_string()), "{error}");
    }
}
