//! Docker's client holds a socket for as long as its plugin is to run.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use tokio::io::AsyncReadExt;

const SOCKET: &str = "DOCKER_CLI_PLUGIN_SOCKET";

/// Ends once the client is gone; without one never.
pub async fn left() {
    let Some(connection) = connect() else {
        return std::future::pending().await;
    };
    let mut connection = connection;
    let mut unread = [0; 64];
    while let Ok(1..) = connection.read(&mut unread).await {}
}

/// `None` of a client that has no such socket: it ends its plugins by signals.
fn connect() -> Option<tokio::net::UnixStream> {
    let name = std::env::var(SOCKET).ok().filter(|name| !name.is_empty())?;
    let stream = match name.strip_prefix('@') {
        Some(name) => {
            let address = SocketAddr::from_abstract_name(name).ok()?;
            UnixStream::connect_addr(&address).ok()?
        }
        None => UnixStream::connect(&name).ok()?,
    };
    stream.set_nonblocking(true).ok()?;
    tokio::net::UnixStream::from_std(stream).ok()
}

#[cfg(test)]
mod tests {
    // The variable is the process's: what is told here is only that nobody waits without it.
    #[tokio::test]
    async fn without_a_client_nobody_leaves() {
        let left = super::left();
        let at_once = std::future::ready(());
        tokio::select! {
            biased;
            () = left => panic!("nobody was there to leave"),
            () = at_once => {}
        }
    }
}
