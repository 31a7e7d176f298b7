//! Networks as clients ask for them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_network::{IpamConfig, NewNetwork, Subnet};
use serde::Deserialize;

use crate::{Error, Result};

/// The body of `POST /networks/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Wanted {
    pub name: String,
    driver: String,
    scope: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_only: bool,
    config_from: Option<ConfigFrom>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    options: BTreeMap<String, String>,
    config: Vec<Config>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    subnet: String,
    #[serde(rename = "IPRange")]
    range: String,
    gateway: String,
    #[serde(alias = "AuxAddress")]
    auxiliary_addresses: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConfigFrom {
    network: String,
}

impl Wanted {
    pub fn network(self) -> Result<NewNetwork> {
        if self.name.trim().is_empty() {
            return Err(Error::bad("network name must not be empty"));
        }
        if !matches!(self.scope.as_str(), "" | "local") || self.ingress {
            return Err(Error::Forbidden(
                "this node is not a swarm manager: networks are of the scope \"local\"".to_owned(),
            ));
        }
        let from = self.config_from.unwrap_or_default().network;
        if self.config_only || !from.is_empty() {
            return Err(Error::NotImplemented(
                "configuration-only networks are not there: give the network its own configuration"
                    .to_owned(),
            ));
        }
        let ipam = self.ipam.unwrap_or_default();
        let configs = ipam.config.into_iter().map(Config::read);
        Ok(NewNetwork {
            driver: self.driver,
            options: self.options,
            ipam_driver: ipam.driver,
            ipam_options: ipam.options,
            ipam: configs.collect::<Result<_>>()?,
            ipv4: self.enable_ipv4.unwrap_or(true),
            ipv6: self.enable_ipv6.unwrap_or(false),
            internal: self.internal,
            attachable: self.attachable,
            labels: self.labels,
            ..NewNetwork::named(self.name)
        })
    }
}

impl Config {
    fn read(self) -> Result<IpamConfig> {
        let auxiliary = self.auxiliary_addresses.into_iter().map(|(name, text)| {
            let address = address("auxiliary address", &text)?;
            Ok((name, address))
        });
        let gateway = match self.gateway.as_str() {
            "" => None,
            // Some clients write it with its subnet's prefix.
            text => Some(address("gateway", text.split('/').next().unwrap_or(text))?),
        };
        Ok(IpamConfig {
            subnet: subnet("subnet", &self.subnet)?,
            range: subnet("ip-range", &self.range)?,
            gateway,
            auxiliary: auxiliary.collect::<Result<_>>()?,
        })
    }
}

fn subnet(what: &str, text: &str) -> Result<Option<Subnet>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse::<Subnet>();
    let subnet = parsed.map_err(|error| Error::bad(format!("invalid {what}: {error}")))?;
    let base = text.split('/').next().and_then(|base| base.parse().ok());
    if what == "subnet" && base != Some(subnet.base()) {
        return Err(Error::bad(format!(
            "invalid network config: invalid subnet {text}: it should be {subnet}"
        )));
    }
    Ok(Some(subnet))
}

fn address(what: &str, text: &str) -> Result<IpAddr> {
    text.parse()
        .map_err(|_| Error::bad(format!("invalid {what} {text:?}: it is no IP address")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: serde_json::Value) -> Result<NewNetwork> {
        let body = serde_json::to_vec(&body).unwrap();
        crate::body::parse::<Wanted>(&body).unwrap().network()
    }

    #[test]
    fn what_clients_send_is_understood() {
        let compose = json!({"Name": "p_default", "CheckDuplicate": true, "Driver": "bridge",
            "Options": null, "IPAM": {"Driver": "default", "Options": null, "Config": [
            {"Subnet": "10.1.0.0/16", "Gateway": "10.1.0.1", "IPRange": "10.1.2.0/24",
             "AuxiliaryAddresses": {"r": "10.1.0.9"}}]}, "Labels": {"a": "b"}, "EnableIPv6": null});
        let network = read(compose).unwrap();
        assert_eq!((network.driver.as_str(), network.ipv6), ("bridge", false));
        assert_eq!(network.ipam[0].range.unwrap().to_string(), "10.1.2.0/24");
        assert_eq!(network.ipam[0].auxiliary["r"].to_string(), "10.1.0.9");
        let bare = read(json!({"Name": "n", "IPAM": {"Config": [{}]}})).unwrap();
        assert_eq!(bare.ipam, [IpamConfig::default()]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_status() {
        for (body, status, word) in [
            (json!({}), 400, "empty"),
            (json!({"Name": "n", "Scope": "swarm"}), 403, "swarm"),
            (
                json!({"Name": "n", "ConfigOnly": true}),
                501,
                "configuration",
            ),
            (
                json!({"Name": "n", "IPAM": {"Config": [{"Subnet": "10.1"}]}}),
                400,
                "10.1",
            ),
            (
                json!({"Name": "n", "IPAM": {"Config": [{"Subnet": "10.1.2.3/16"}]}}),
                400,
                "10.1.0.0/16",
            ),
            (
                json!({"Name": "n", "IPAM": {"Config": [{"Subnet": "10.1.0.0/16", "Gateway": "x"}]}}),
                400,
                "gateway",
            ),
        ] {
            let error = read(body).unwrap_err();
            assert_eq!(error.status().as_u16(), status, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
