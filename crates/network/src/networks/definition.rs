//! What a network is: as it is asked for, and as it is remembered.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use berth_names::NetworkId;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::subnet::Subnet;

/// The names of the networks that are always there.
pub const BRIDGE: &str = "bridge";
pub const HOST: &str = "host";
pub const NONE: &str = "none";

/// Labels, options and names are kept for others to read, not for ever more of them.
const TEXT_LIMIT: usize = 256 * 1024;
const NAME_LIMIT: usize = 255;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDriver {
    Bridge,
    /// The host's own network: whoever is on it has no namespace.
    Host,
    /// Nothing but a loopback.
    Null,
}

impl fmt::Display for NetworkDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
        })
    }
}

/// A subnet as it is asked for. Without one the network gets a range of the default pools.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamConfig {
    pub subnet: Option<Subnet>,
    /// The part of the subnet from which addresses are given unasked.
    pub range: Option<Subnet>,
    /// The host's address in it; the first of the range where none is named.
    pub gateway: Option<IpAddr>,
    /// Addresses that nobody gets, by what they are for.
    pub auxiliary: BTreeMap<String, IpAddr>,
}

/// A network that is asked for.
#[derive(Debug, Clone)]
pub struct NewNetwork {
    pub name: String,
    /// Empty: `bridge`, the only one of which there can be more.
    pub driver: String,
    pub options: BTreeMap<String, String>,
    /// Empty or `default`.
    pub ipam_driver: String,
    pub ipam_options: BTreeMap<String, String>,
    pub ipam: Vec<IpamConfig>,
    pub ipv4: bool,
    pub ipv6: bool,
    /// Containers reach each other and nothing else.
    pub internal: bool,
    pub attachable: bool,
    pub labels: BTreeMap<String, String>,
}

impl NewNetwork {
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            driver: String::new(),
            options: BTreeMap::new(),
            ipam_driver: String::new(),
            ipam_options: BTreeMap::new(),
            ipam: Vec::new(),
            ipv4: true,
            ipv6: false,
            internal: false,
            attachable: false,
            labels: BTreeMap::new(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let invalid = |reason: String| Err(Error::NetworkInvalid { reason });
        check_name(&self.name)?;
        if [BRIDGE, HOST, NONE, "default"].contains(&self.name.as_str()) {
            return Err(Error::NetworkPredefined {
                name: self.name.clone(),
            });
        }
        match self.driver.as_str() {
            "" | "bridge" => {}
            "host" | "null" => {
                return Err(Error::NetworkSingle {
                    driver: self.driver.clone(),
                });
            }
            other => {
                return Err(Error::NetworkDriverUnknown {
                    driver: other.chars().take(64).collect(),
                });
            }
        }
        if !matches!(self.ipam_driver.as_str(), "" | "default") {
            return invalid(format!(
                "IPAM driver {:?} is not there: addresses are given by \"default\"",
                self.ipam_driver
            ));
        }
        if !self.ipv4 && !self.ipv6 {
            return invalid("IPv4 or IPv6 must be enabled".to_owned());
        }
        let texts = [&self.options, &self.ipam_options, &self.labels];
        let length: usize = texts
            .into_iter()
            .flatten()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if length > TEXT_LIMIT {
            return invalid(format!(
                "labels and options are {length} bytes, more than {TEXT_LIMIT}"
            ));
        }
        Ok(())
    }
}

/// Letters and digits first, then also `_.-`: the field's names of things.
fn check_name(name: &str) -> Result<()> {
    let mut bytes = name.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && name.len() <= NAME_LIMIT;
    if good {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(Error::NetworkInvalid {
        reason: format!(
            "network name {shown:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, at most {NAME_LIMIT} of them"
        ),
    })
}

/// A subnet that a network has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSubnet {
    pub subnet: Subnet,
    pub range: Option<Subnet>,
    /// Always of the subnet. An internal network's is on the host, but nobody is told of it.
    pub gateway: IpAddr,
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Whether somebody asked for this subnet, so that addresses in it can be asked for too.
    pub chosen: bool,
}

/// A network as it is remembered. Nothing of it changes, but the default network's subnet where
/// that has come to collide with a route of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDefinition {
    pub id: NetworkId,
    pub name: String,
    pub driver: NetworkDriver,
    /// Nanoseconds since 1970.
    pub created: u64,
    pub options: BTreeMap<String, String>,
    pub ipam_options: BTreeMap<String, String>,
    /// IPv4 first.
    pub subnets: Vec<NetworkSubnet>,
    pub ipv4: bool,
    pub ipv6: bool,
    pub internal: bool,
    pub attachable: bool,
    pub labels: BTreeMap<String, String>,
    /// The bridge's interface on the host; empty for other drivers.
    pub interface: String,
    /// The interface was there before the network, and stays when that goes.
    #[serde(default)]
    pub adopted: bool,
}

impl NetworkDefinition {
    /// Whether it is one of the networks that are always there.
    pub fn predefined(&self) -> bool {
        [BRIDGE, HOST, NONE].contains(&self.name.as_str())
    }

    /// Whether names are resolved on it.
    pub fn user_defined(&self) -> bool {
        self.driver == NetworkDriver::Bridge && !self.predefined()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_drivers_that_cannot_be_are_refused_in_words() {
        for good in ["a", "my_net", "web.front-1", &"x".repeat(255)] {
            NewNetwork::named(good).check().unwrap();
        }
        for bad in ["", "-a", ".x", "a b", "a/b", "é", "a\n", &"x".repeat(256)] {
            let error = NewNetwork::named(bad).check().unwrap_err();
            assert!(matches!(error, Error::NetworkInvalid { .. }), "{bad:?}");
        }
        for name in ["bridge", "host", "none"] {
            let error = NewNetwork::named(name).check().unwrap_err();
            assert!(matches!(error, Error::NetworkPredefined { .. }), "{name}");
        }
        let with = |change: fn(&mut NewNetwork)| {
            let mut network = NewNetwork::named("n");
            change(&mut network);
            network.check()
        };
        assert!(with(|n| n.driver = "macvlan".into()).is_err());
        assert!(with(|n| n.driver = "host".into()).is_err());
        assert!(with(|n| n.ipam_driver = "dhcp".into()).is_err());
        assert!(with(|n| n.ipv4 = false).is_err());
        assert!(with(|n| _ = n.labels.insert("a".into(), "x".repeat(300_000))).is_err());
        with(|n| n.driver = "bridge".into()).unwrap();
    }
}
