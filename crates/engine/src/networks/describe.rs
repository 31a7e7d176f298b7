//! A network as clients see it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_network::{
    BRIDGE, Endpoint, EndpointAddress, Member, NetworkDefinition, NetworkInfo, NetworkSubnet,
    Subnet,
};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Shown {
    name: String,
    id: String,
    created: String,
    scope: &'static str,
    driver: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFrom,
    config_only: bool,
    containers: BTreeMap<String, Container>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    /// `null` where nobody could have given any.
    options: Option<BTreeMap<String, String>>,
    config: Vec<Config>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    subnet: Subnet,
    #[serde(rename = "IPRange", skip_serializing_if = "Option::is_none")]
    range: Option<Subnet>,
    gateway: IpAddr,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    auxiliary_addresses: BTreeMap<String, IpAddr>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigFrom {
    network: &'static str,
}

/// A container on the network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    mac_address: String,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
}

impl Shown {
    /// As lists have it: without the containers.
    pub fn listed(network: &NetworkInfo) -> Self {
        let definition = &*network.definition;
        Self {
            name: definition.name.clone(),
            id: definition.id.to_string(),
            created: created(definition),
            scope: scope(definition),
            driver: definition.driver.to_string(),
            enable_ipv4: definition.ipv4,
            enable_ipv6: definition.ipv6,
            ipam: Ipam {
                driver: match definition.ipam_driver.as_str() {
                    "" => "default".to_owned(),
                    driver => driver.to_owned(),
                },
                options: (!definition.predefined()).then(|| definition.ipam_options.clone()),
                config: definition.subnets.iter().map(Config::from).collect(),
            },
            internal: definition.internal,
            attachable: definition.attachable,
            ingress: false,
            config_from: ConfigFrom { network: "" },
            config_only: false,
            containers: BTreeMap::new(),
            options: options(definition),
            labels: definition.labels.clone(),
        }
    }

    pub fn whole(network: &NetworkInfo) -> Self {
        let containers = network.endpoints.iter();
        Self {
            containers: containers
                .map(|(member, endpoint)| (member.id.to_string(), Container::of(member, endpoint)))
                .collect(),
            ..Self::listed(network)
        }
    }
}

/// As its plugin says; ours are of this node.
pub fn scope(definition: &NetworkDefinition) -> &'static str {
    match definition.global {
        true => "global",
        false => "local",
    }
}

/// The default network's tell what it is by options that nobody gave.
fn options(definition: &NetworkDefinition) -> BTreeMap<String, String> {
    if definition.name != BRIDGE {
        return definition.options.clone();
    }
    let own = [
        ("com.docker.network.bridge.default_bridge", "true"),
        ("com.docker.network.bridge.enable_icc", "true"),
        ("com.docker.network.bridge.enable_ip_masquerade", "true"),
        ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
        ("com.docker.network.bridge.name", &definition.interface),
    ];
    own.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn created(definition: &NetworkDefinition) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(definition.created.into())
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_default()
}

impl From<&NetworkSubnet> for Config {
    fn from(subnet: &NetworkSubnet) -> Self {
        Self {
            subnet: subnet.subnet,
            range: subnet.range,
            gateway: subnet.gateway,
            auxiliary_addresses: subnet.auxiliary.clone(),
        }
    }
}

impl Container {
    fn of(member: &Member, endpoint: &Endpoint) -> Self {
        let text = |address: Option<&EndpointAddress>| {
            address.map_or_else(String::new, |a| format!("{}/{}", a.address, a.prefix))
        };
        Self {
            name: member.name.clone(),
            endpoint_id: endpoint.id.to_string(),
            mac_address: endpoint.mac.map_or_else(String::new, |mac| mac.to_string()),
            ipv4_address: text(endpoint.ipv4()),
            ipv6_address: text(endpoint.ipv6()),
        }
    }
}
