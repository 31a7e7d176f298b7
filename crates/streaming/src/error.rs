//! What can go wrong before a stream exists. What goes wrong on one is told to its client.

use std::io;
use std::net::SocketAddr;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{field}: {problem}")]
    Invalid {
        field: &'static str,
        problem: &'static str,
    },
    #[error("{limit} streams are prepared and not fetched: try again when some have expired")]
    TooManyPrepared { limit: usize },
    #[error("no random numbers for a token")]
    Random(#[source] io::Error),
}
