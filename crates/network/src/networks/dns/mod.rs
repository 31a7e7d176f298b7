//! The resolver that containers of user-defined networks find at 127.0.0.11: names of their networks
//! are answered, all others are asked of the host's resolvers or of the container's own.
//!
//! Nothing runs in the container: its sockets are made in its namespace and served from here. A
//! container that asks too much, too fast or nonsense harms itself only: what it may have under way
//! is bounded, alone and together with all others.

mod directory;
mod message;
mod resolv;
mod server;
mod upstream;

pub(crate) use directory::Directory;
pub(crate) use resolv::{Resolvers, settings};
pub(crate) use server::{Client, Server, Shared, Sockets, open_here};

use std::net::Ipv4Addr;

/// Where containers find it.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
