//! A connection that breaks off: a relay before a registry that cuts the first long upload.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// Serves until the suite ends.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes of one connection after which it is cut.
    limit: u64,
    cut: AtomicBool,
}

impl Relay {
    /// Passes everything on to `target`, but for the first connection that sends more than `limit`
    /// bytes.
    pub fn start(target: &str, limit: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening")?;
        let address = listener.local_addr().context("listening")?;
        let state = Arc::new(State {
            limit,
            cut: AtomicBool::new(false),
        });
        let (shared, target) = (Arc::clone(&state), target.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (state, target) = (Arc::clone(&shared), target.clone());
                std::thread::spawn(move || relay(client, &target, &state));
            }
        });
        Ok(Self { address, state })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn has_cut(&self) -> bool {
        self.state.cut.load(Ordering::SeqCst)
    }
}

fn relay(client: TcpStream, target: &str, state: &State) {
    let Ok(server) = TcpStream::connect(target) else {
        return;
    };
    let (Ok(mut from), Ok(mut to)) = (server.try_clone(), client.try_clone()) else {
        return;
    };
    std::thread::spawn(move || {
        let _ended = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ended = upload(&client, &server, state);
    let _ = (
        client.shutdown(Shutdown::Both),
        server.shutdown(Shutdown::Both),
    );
}

fn upload(mut client: &TcpStream, mut server: &TcpStream, state: &State) -> std::io::Result<()> {
    let (mut buffer, mut here) = (vec![0; 16 << 10], 0);
    loop {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        here += count as u64;
        if here > state.limit && !state.cut.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        server.write_all(buffer.get(..count).unwrap_or_default())?;
    }
}
