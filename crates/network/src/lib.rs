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
//! Containers' networks, of which there can be many, are `networks`' matter, on the same ground.
//!
//! What is on disk is described in `record` and `networks::store`; how nftables is used in `firewall::table`. `netns`
//! makes the namespaces that pods live in, `stats` reads their interfaces' counters.

mod addresses;
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
mod networks;
mod pod;
mod ports;
mod record;
mod subnet;
mod sysctl;
mod threads;

pub use config::{BridgeConfig, NetworkConfig};
pub use counters::{Counters, InterfaceStats, stats};
pub use dial::dial;
pub use error::{Error, ErrorKind, Result};
pub use netlink::Refusal;
pub use network::{Network, NetworkStatus, NotReady, Reconciled};
pub use networks::{
    AddressPool, BRIDGE, Created, Endpoint, EndpointAddress, EndpointRequest, HOST, HostPort,
    IpamConfig, MacAddress, MacError, Member, Membership, NONE, NetworkDefinition, NetworkDriver,
    NetworkInfo, NetworkSubnet, Networks, NetworksConfig, NewNetwork, Plug, PlugRoute, PortRequest,
    PublishedPort, Released,
};
pub use pod::{Attachment, Bandwidth, Dns, POD_INTERFACE, PodNetwork, PortMapping, Protocol};
pub use subnet::{Subnet, SubnetError};
