//! A container's place on a network, as clients ask for it and as they see it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_network::{Endpoint, EndpointAddress, EndpointRequest};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::links;

const INTERFACE: &str = "com.docker.network.endpoint.ifname";

/// What a client asks for, and, while the container runs, what it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EndpointSettings {
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointAddresses>,
    /// `name:alias`: further names of others, for this container alone.
    pub links: Option<Vec<String>>,
    pub aliases: Option<Vec<String>>,
    pub mac_address: String,
    pub driver_opts: Option<BTreeMap<String, String>>,
    pub gw_priority: i64,
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    pub gateway: String,
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    #[serde(rename = "DNSNames")]
    pub dns_names: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointAddresses {
    #[serde(rename = "IPv4Address", skip_serializing_if = "String::is_empty")]
    pub ipv4: String,
    #[serde(rename = "IPv6Address", skip_serializing_if = "String::is_empty")]
    pub ipv6: String,
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "Vec::is_empty")]
    pub link_local: Vec<String>,
}

impl EndpointSettings {
    /// What is asked of the network.
    pub fn request(&self) -> Result<EndpointRequest> {
        let wanted = self.ipam_config.clone().unwrap_or_default();
        let options = self.driver_opts.clone().unwrap_or_default();
        let mac = match self.mac_address.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| Error::invalid(format!("invalid MAC address {text:?}")))?,
            ),
        };
        let links = self.links.iter().flatten().map(|link| {
            let (name, alias) = links::parse(link)?;
            Ok((alias.to_owned(), name.to_owned()))
        });
        Ok(EndpointRequest {
            links: links.collect::<Result<_>>()?,
            ipv4: address(&wanted.ipv4)?,
            ipv6: address(&wanted.ipv6)?,
            mac,
            aliases: self.aliases.clone().unwrap_or_default(),
            interface: options.get(INTERFACE).cloned(),
            gateway_priority: self.gw_priority,
            options,
        })
    }

    /// The same with what the container has.
    pub(crate) fn with(&self, endpoint: &Endpoint) -> Self {
        let (v4, v6) = (endpoint.ipv4(), endpoint.ipv6());
        let ip = |found: Option<&EndpointAddress>| text(found.map(|a| a.address));
        let gateway = |found: Option<&EndpointAddress>| text(found.and_then(|a| a.gateway));
        Self {
            mac_address: endpoint.mac.map_or_else(String::new, |mac| mac.to_string()),
            network_id: endpoint.network.to_string(),
            endpoint_id: endpoint.id.to_string(),
            gateway: gateway(v4),
            ip_address: ip(v4),
            ip_prefix_len: v4.map_or(0, |a| a.prefix),
            ipv6_gateway: gateway(v6),
            global_ipv6_address: ip(v6),
            global_ipv6_prefix_len: v6.map_or(0, |a| a.prefix),
            dns_names: Some(endpoint.names.clone()).filter(|names| !names.is_empty()),
            ..self.clone()
        }
    }
}

fn text(address: Option<IpAddr>) -> String {
    address.map_or_else(String::new, |address| address.to_string())
}

fn address<T: std::str::FromStr>(text: &str) -> Result<Option<T>> {
    match text {
        "" => Ok(None),
        text => match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(Error::invalid(format!("invalid IP address {text:?}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_asked_is_read_and_shown_again_with_what_there_is() {
        let body = json!({"IPAMConfig": {"IPv4Address": "10.1.0.7"}, "Aliases": ["a"],
            "MacAddress": "02:42:00:00:00:07", "GwPriority": 3, "Links": null,
            "DriverOpts": {INTERFACE: "wan0"}});
        let asked: EndpointSettings = serde_json::from_value(body).unwrap();
        let request = asked.request().unwrap();
        assert_eq!(request.ipv4, Some("10.1.0.7".parse().unwrap()));
        assert_eq!(request.interface.as_deref(), Some("wan0"));
        assert_eq!((request.gateway_priority, request.aliases.len()), (3, 1));
        for bad in [
            json!({"MacAddress": "x"}),
            json!({"IPAMConfig": {"IPv4Address": "::1"}}),
            json!({"IPAMConfig": {"IPv6Address": "10.0.0.1"}}),
        ] {
            let settings: EndpointSettings = serde_json::from_value(bad).unwrap();
            assert_eq!(settings.request().unwrap_err().kind(), crate::Kind::Invalid);
        }
    }
}
