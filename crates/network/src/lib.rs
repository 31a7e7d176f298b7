//! Pod networks: CNI and the built-in bridge.
//!
//! ```text
//!            setup / teardown / ready / reconcile / heal
//!                             network
//!                    cni                  bridge
//!         conf, directory, execute   device, endpoint, addresses, ports ── firewall
//!                                            netlink: wire, channel, route
//! ```
//!
//! What is on disk is described in `record`; how nftables is used in `firewall::table`. `netns`
//! makes the namespaces that pods live in, `stats` reads their interfaces' counters.

mod bridge;
mod cni;
mod config;
mod counters;
mod dial;
mod error;
mod firewall;
mod netlink;
pub mod netns;
mod network;
mod pod;
mod record;
mod subnet;
mod sysctl;
mod threads;

pub use config::{BridgeConfig, NetworkConfig};
pub use counters::{Counters, InterfaceStats, stats};
pub use dial::dial;
pub use error::{Error, Result};
pub use netlink::Refusal;
pub use network::{Network, NetworkStatus, NotReady, Reconciled};
pub use pod::{Attachment, Bandwidth, Dns, POD_INTERFACE, PodNetwork, PortMapping, Protocol};
pub use subnet::{Subnet, SubnetError};
