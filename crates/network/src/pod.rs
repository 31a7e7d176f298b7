//! What a pod asks of its network, and what it gets.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use berth_names::SandboxId;
use serde::{Deserialize, Serialize};

/// The interface that every pod's network arrives on.
pub const POD_INTERFACE: &str = "eth0";

/// A pod to be connected. Nothing of it is trusted: names end up in plugin arguments.
#[derive(Debug, Clone)]
pub struct PodNetwork {
    pub id: SandboxId,
    pub name: String,
    pub namespace: String,
    pub uid: String,
    /// The pinned network namespace; it must exist until teardown has been asked for.
    pub netns: PathBuf,
    pub port_mappings: Vec<PortMapping>,
    pub bandwidth: Option<Bandwidth>,
    pub dns: Dns,
    pub annotations: BTreeMap<String, String>,
    /// The pod's cgroup parent, for plugins that ask for `cgroupPath`.
    pub cgroup_parent: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => libc::IPPROTO_TCP as u8,
            Self::Udp => libc::IPPROTO_UDP as u8,
            Self::Sctp => libc::IPPROTO_SCTP as u8,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    /// 0: the container's port is only declared, not published.
    pub host_port: u16,
    /// `None` (or an unspecified address): every address of the host.
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    pub(crate) fn published(&self) -> bool {
        self.host_port != 0
    }

    /// The one host address that the mapping is bound to.
    pub(crate) fn bound_ip(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }
}

/// Rates in bits a second, bursts in bits; ingress is what the pod receives. 0 means unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    pub ingress_rate: u64,
    pub ingress_burst: u64,
    pub egress_rate: u64,
    pub egress_burst: u64,
}

/// The pod's resolver, for plugins that ask for `dns`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A connected pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The primary address first; of either family, in the network's order.
    pub ips: Vec<IpAddr>,
    /// A CNI result: the plugins' own, or one of the same shape from the built-in bridge.
    pub result: serde_json::Value,
}
