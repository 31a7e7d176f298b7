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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum NetworkDriver {
    Bridge,
    /// The host's own network: whoever is on it has no namespace.
    Host,
    /// Nothing but a loopback.
    Null,
    /// A program beside the daemon, by its name.
    Plugin(String),
}

impl From<String> for NetworkDriver {
    fn from(name: String) -> Self {
        match name.as_str() {
            "" | "bridge" => Self::Bridge,
            "host" => Self::Host,
            "null" => Self::Null,
            _ => Self::Plugin(name),
        }
    }
}

impl From<NetworkDriver> for String {
    fn from(driver: NetworkDriver) -> Self {
        driver.to_string()
    }
}

impl fmt::Display for NetworkDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
            Self::Plugin(name) => name,
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
    /// Empty: `bridge`. What is not built in is a plugin's name.
    pub driver: String,
    pub options: BTreeMap<String, String>,
    /// Empty or `default`; `null` where a plugin's network has its own; or a plugin's name.
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

    pub(super) fn driver(&self) -> NetworkDriver {
        NetworkDriver::from(self.driver.clone())
    }

    /// Whether plugins have to be asked for it.
    pub(super) fn is_plugged(&self) -> bool {
        let driver = matches!(self.driver(), NetworkDriver::Plugin(_));
        driver || !is_own(&self.ipam_driver)
    }

    pub(super) fn check(&self) -> Result<()> {
        let invalid = |reason: String| Err(Error::NetworkInvalid { reason });
        check_name(&self.name)?;
        if [BRIDGE, HOST, NONE, "default"].contains(&self.name.as_str()) {
            return Err(Error::NetworkPredefined {
                name: self.name.clone(),
            });
        }
        let driver = self.driver();
        if let NetworkDriver::Host | NetworkDriver::Null = driver {
            return Err(Error::NetworkSingle {
                driver: self.driver.clone(),
            });
        }
        if self.ipam_driver == "null" && driver == NetworkDriver::Bridge {
            return invalid("the addresses of a bridge network are not its own".to_owned());
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

/// Whether addresses are ours to give.
fn is_own(ipam: &str) -> bool {
    matches!(ipam, "" | "default")
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
    /// By what name the plugin that gives its addresses knows it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pool: String,
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
    /// As in [`NewNetwork`].
    #[serde(default)]
    pub ipam_driver: String,
    /// Its plugin has the same network on other nodes.
    #[serde(default)]
    pub global: bool,
}

impl NetworkDefinition {
    /// Whether it is one of the networks that are always there.
    pub fn predefined(&self) -> bool {
        [BRIDGE, HOST, NONE].contains(&self.name.as_str())
    }

    /// Whether names are resolved on it.
    pub fn user_defined(&self) -> bool {
        !self.predefined()
    }

    /// The plugin whose network it is.
    pub(super) fn plugin(&self) -> Option<&str> {
        match &self.driver {
            NetworkDriver::Plugin(name) => Some(name),
            _ => None,
        }
    }

    /// Whether addresses are taken from pools of ours.
    pub(super) fn gives_addresses(&self) -> bool {
        is_own(&self.ipam_driver)
    }

    /// The plugin that gives its addresses.
    pub(super) fn ipam_plugin(&self) -> Option<&str> {
        let ipam = self.ipam_driver.as_str();
        (!is_own(ipam) && ipam != "null").then_some(ipam)
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
        assert!(with(|n| n.driver = "host".into()).is_err());
        assert!(with(|n| n.ipam_driver = "null".into()).is_err());
        assert!(with(|n| n.ipv4 = false).is_err());
        assert!(with(|n| _ = n.labels.insert("a".into(), "x".repeat(300_000))).is_err());
        with(|n| n.driver = "bridge".into()).unwrap();
    }
}
