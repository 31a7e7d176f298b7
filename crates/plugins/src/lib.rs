//! Plugins of Docker's first protocol: programs of others that offer volumes, logs or networks, each
//! behind a socket (<https://docs.docker.com/engine/extend/plugin_api/>).
//!
//! ```text
//!   discovery   a name ─▶ an address: a socket, or a file that says where
//!   client      POST /Interface.Method, JSON both ways, bounded in time and size
//!   registry    who is there, activated once
//!   volume      what a volume driver is asked
//!   network     what a network driver is asked
//!   ipam        what a driver of addresses is asked
//!   log         what a log driver is asked, and the entries that it reads
//! ```
//!
//! A plugin is a stranger: it may be away, hang, or answer anything. Every call ends in a bounded
//! time, and what only looks does so soon.

mod cidr;
mod client;
mod discovery;
mod error;
mod ipam;
mod log;
mod network;
mod registry;
mod volume;

pub use cidr::Cidr;
pub use client::{Patience, Plugin};
pub use error::{Error, Result};
pub use ipam::{IpamDriver, PluginPool, PoolRequest};
pub use log::{LogDriver, LogEntry, LogInfo};
pub use network::{Joined, NetworkDraft, NetworkDriver, NetworkPool, PluginInterface, PluginRoute};
pub use registry::{Config, Found, Plugins};
pub use volume::{PluginVolume, VolumeDriver};
