//! A container on its networks: what is asked for it, and what it has.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use berth_names::{ContainerId, EndpointId, NetworkId};
use serde::{Deserialize, Serialize};

use super::forwards::WITHIN;
use crate::pod::{Dns, PortMapping, Protocol};
use crate::subnet::Subnet;

/// A hardware address, written `02:42:ac:11:00:02`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

/// Why a text is not a hardware address that an interface can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a MAC address such as 02:42:ac:11:00:02")]
pub struct MacError {
    text: String,
}

impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let fault = || MacError {
            text: text.chars().take(64).collect(),
        };
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let digits =
                |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(digits);
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(fault)?;
        }
        // A group's address or none at all is not an interface's.
        if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(fault());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacError;
    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

/// A running container. The same at each of its networks; what the latest attach says counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: ContainerId,
    /// Without a leading slash; found by it on networks that resolve names.
    pub name: String,
    /// Its network namespace; it must exist until the last detach.
    pub netns: PathBuf,
    /// Published by the network that is its gateway.
    pub ports: Vec<PortRequest>,
    /// Its own resolver settings, for as long as it runs. Without servers, names are asked of the
    /// host's.
    pub dns: Dns,
}

/// A container's port to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    pub protocol: Protocol,
    pub container_port: u16,
    /// `None`: every address of the host; an unspecified one: every address of its family.
    pub host_ip: Option<IpAddr>,
    pub host_port: HostPort,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostPort {
    /// One that is free, of the host's ephemeral ports.
    Any,
    /// The first of these that is free; most often there is one.
    Among(RangeInclusive<u16>),
}

/// A port of the host that leads to a container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    pub protocol: Protocol,
    pub container_port: u16,
    /// An unspecified address stands for every one of its family.
    pub host_ip: IpAddr,
    pub host_port: u16,
    /// Not this network namespace's, but one that leads into it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forwarded: bool,
}

impl PublishedPort {
    pub(super) fn mapping(&self) -> PortMapping {
        PortMapping {
            protocol: self.protocol,
            container_port: self.container_port,
            host_port: self.host_port,
            host_ip: Some(if self.forwarded { WITHIN } else { self.host_ip }),
        }
    }
}

/// What a container would like on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRequest {
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub mac: Option<MacAddress>,
    /// More names for it; several containers may share one.
    pub aliases: Vec<String>,
    /// By which names this container alone finds others, and their names.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// `None`: the first of eth0, eth1, … that is free.
    pub interface: Option<String>,
    /// The network with the highest one is the gateway; among equals the first by name.
    pub gateway_priority: i64,
    /// Kept for whoever inspects.
    pub options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointAddress {
    pub address: IpAddr,
    /// Bits of the subnet.
    pub prefix: u8,
    /// `None` on an internal network.
    pub gateway: Option<IpAddr>,
}

/// A container's place on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: EndpointId,
    pub network: NetworkId,
    pub network_name: String,
    /// In the container; empty on networks without interfaces, as are the next two.
    pub interface: String,
    pub mac: Option<MacAddress>,
    /// IPv4 first.
    pub addresses: Vec<EndpointAddress>,
    /// All names that it is found by, if the network resolves names.
    pub names: Vec<String>,
    pub request: EndpointRequest,
    /// On a plugin's network: what that has made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plug: Option<Plug>,
}

/// What a network's plugin said when a container joined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plug {
    /// The interface's name on the host.
    pub source: String,
    /// What is beyond the subnet, and where.
    pub routes: Vec<PlugRoute>,
    /// By the plugin.
    pub published: Vec<PublishedPort>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlugRoute {
    pub destination: Subnet,
    /// `None`: it is on the interface's own link.
    pub next_hop: Option<IpAddr>,
}

impl Endpoint {
    pub fn ipv4(&self) -> Option<&EndpointAddress> {
        self.addresses.iter().find(|a| a.address.is_ipv4())
    }

    pub fn ipv6(&self) -> Option<&EndpointAddress> {
        self.addresses.iter().find(|a| a.address.is_ipv6())
    }

    /// Whether it has a cable of ours.
    pub(super) fn is_cabled(&self) -> bool {
        !self.interface.is_empty() && self.plug.is_none()
    }
}

/// A container's networks, as they are now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    pub member: Member,
    /// In the order in which they were attached.
    pub endpoints: Vec<Endpoint>,
    /// Whose gateway is the container's default route, and who publishes its ports.
    pub gateway: Option<NetworkId>,
    pub ports: Vec<PublishedPort>,
}

impl Membership {
    /// Whether plugins' networks are among its own.
    pub(super) fn is_plugged(&self) -> bool {
        self.endpoints
            .iter()
            .any(|endpoint| endpoint.plug.is_some())
    }

    /// Whose gateway is the way out.
    pub(super) fn way_out(&self) -> Option<&Endpoint> {
        let mut endpoints = self.endpoints.iter();
        endpoints.find(|endpoint| Some(&endpoint.network) == self.gateway.as_ref())
    }

    /// The ports that lead to the container, whoever published them.
    pub fn published(&self) -> impl Iterator<Item = &PublishedPort> {
        let plug = self.way_out().and_then(|endpoint| endpoint.plug.as_ref());
        let (own, plugged) = match plug {
            Some(plug) => (&[][..], &plug.published[..]),
            None => (&self.ports[..], &[][..]),
        };
        own.iter().chain(plugged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_read_back_and_groups_are_refused() {
        for text in ["02:42:ac:11:00:02", "02-42-AC-11-00-02"] {
            let mac: MacAddress = text.parse().unwrap();
            assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        }
        for text in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "2:42:ac:11:0:2",
            "02:42:ac:11:00:0g",
            "+2:42:ac:11:00:02",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text:?} was taken");
        }
    }
}
