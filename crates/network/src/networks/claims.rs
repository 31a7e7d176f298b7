//! What keeps the host's ports the containers'.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::forwards::{Forward, Forwarder};
use crate::error::Result;
use crate::pod::Protocol;
use crate::ports::hold;

/// How ports of the host are taken.
#[derive(Debug)]
pub(super) enum Claims {
    /// By a socket on each, so that others are told that they are taken.
    Sockets,
    /// By who forwards them into the namespace that an ordinary user's daemon is in.
    Forwards(Forwarder),
}

/// A port that is taken until this is dropped.
#[derive(Debug)]
pub(super) enum Claim {
    Socket { _bound: OwnedFd },
    Forward { _until: Forward },
}

impl Claims {
    /// `None` where nothing can or has to be done. Sockets are bound in the calling thread's network
    /// namespace.
    pub(super) fn take(
        &self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
    ) -> Result<Option<Claim>> {
        match self {
            Self::Sockets => {
                let socket = hold(protocol, address, port)?;
                Ok(socket.map(|_bound| Claim::Socket { _bound }))
            }
            Self::Forwards(forwarder) => {
                let forward = forwarder.forward(protocol, address, port)?;
                Ok(forward.map(|_until| Claim::Forward { _until }))
            }
        }
    }

    pub(super) fn are_forwards(&self) -> bool {
        matches!(self, Self::Forwards(_))
    }
}
