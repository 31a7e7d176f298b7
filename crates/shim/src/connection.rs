//! One client of the shim: a non-blocking socket with its two buffers.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use crate::status::{Error, Failure};
use crate::wire::{Broken, Decoder, Incoming, encode_response};

/// Unsent bytes above which no more requests are read from a client.
const HIGH_WATER: usize = 256 << 10;

#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    unsent: Vec<u8>,
    sent: usize,
}

impl Connection {
    /// Takes the socket if the peer's user is root or this process's own.
    pub fn admit(socket: UnixStream) -> Result<Option<Self>, Error> {
        let peer = berth_kernel::peer_credentials(&socket)
            .map_err(|source| Error::system("read peer credentials", source))?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            return Ok(None);
        }
        socket
            .set_nonblocking(true)
            .map_err(|source| Error::system("make connection non-blocking", source))?;
        Ok(Some(Self {
            socket,
            decoder: Decoder::default(),
            unsent: Vec::new(),
            sent: 0,
        }))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads once. `false`: the client is gone or cannot be understood.
    pub fn receive(&mut self) -> bool {
        let mut chunk = [0; 4096];
        match self.socket.read(&mut chunk) {
            Ok(0) => false,
            Ok(count) => {
                self.decoder.push(&chunk[..count]);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// The next request that was received whole.
    pub fn next_frame(&mut self) -> Result<Option<Incoming>, Broken> {
        self.decoder.next_frame()
    }

    /// Queues a response and sends what the socket takes. `false`: the client
    /// is gone.
    pub fn answer(&mut self, stream: u32, answer: Result<Vec<u8>, Failure>) -> bool {
        self.unsent.extend(encode_response(stream, answer));
        self.flush()
    }

    pub fn flush(&mut self) -> bool {
        while self.sent < self.unsent.len() {
            match self.socket.write(&self.unsent[self.sent..]) {
                Ok(0) => return false,
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.unsent = Vec::new();
        self.sent = 0;
        true
    }

    pub fn wants_reads(&self) -> bool {
        self.unsent.len() - self.sent < HIGH_WATER
    }

    pub fn wants_writes(&self) -> bool {
        self.sent < self.unsent.len()
    }
}
