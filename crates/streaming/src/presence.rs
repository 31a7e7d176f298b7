//! Whether a client is still there.
//!
//! A reader that waits for a slow taker does not see the end of its connection. The kernel knows
//! it (`EPOLLRDHUP`), whatever is still unread; no client of these protocols closes only its half.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A client whose host is gone is noticed after about this.
const SILENCE: Duration = Duration::from_secs(15);
const PROBE: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

/// A second descriptor of the connection, which is only watched.
#[derive(Debug)]
pub struct Presence(TcpStream);

impl Presence {
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, SILENCE)?;
        sockopt::set_tcp_keepintvl(stream, PROBE)?;
        sockopt::set_tcp_keepcnt(stream, PROBES)?;
        let watched = stream.as_fd().try_clone_to_owned()?;
        TcpStream::from_std(watched.into()).map(Self)
    }

    /// Completes when the client has closed the connection or it broke.
    pub async fn gone(&self) {
        while let Ok(ready) = self.0.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // Input, which is for others to read: waits for the next event.
            let _ = self.0.try_io(Interest::READABLE, || {
                Err::<(), _>(io::ErrorKind::WouldBlock.into())
            });
        }
    }
}
