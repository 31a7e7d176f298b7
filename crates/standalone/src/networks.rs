//! The networks that a container is on. What is asked of them is part of its record; what it has
//! there, addresses and ports of the host, is its own from a start to the end of that run.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use berth_lifecycle::request::Dns;
use berth_names::ContainerId;
use berth_network::{Member, Membership, NetworkDefinition, PortRequest};

use crate::config::{HostConfig, NetworkingConfig, PortBinding};
use crate::endpoint::EndpointSettings;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::house::House;
use crate::record::Record;
use crate::request::{self, Network};

const SHARED: &str = "container sharing network namespace with another container or host cannot be \
                      connected to any other network";

/// What a new container asks of its networks, by their names.
pub(crate) fn asked(
    host: &HostConfig,
    networking: &NetworkingConfig,
) -> Result<BTreeMap<String, EndpointSettings>> {
    let main = request::network(host)?;
    let mut asked = BTreeMap::new();
    // Clients name that "network" among the endpoints, too.
    if let Network::Shared(_) = main {
        return Ok(asked);
    }
    for (name, settings) in &networking.endpoints_config {
        let settings: EndpointSettings = serde_json::from_value(settings.clone())
            .map_err(|error| Error::invalid(format!("endpoint of network {name}: {error}")))?;
        settings.request()?;
        let name = if name == "default" { "bridge" } else { name };
        asked.insert(name.to_owned(), settings);
    }
    let (name, alone) = match &main {
        Network::Joined(name) => (name.as_str(), false),
        Network::Host => ("host", true),
        Network::None => ("none", true),
        Network::Shared(_) => return Ok(asked),
    };
    if alone && asked.keys().any(|other| other != name) {
        return Err(Error::invalid(format!(
            "a container on the network {name} is on no other"
        )));
    }
    asked.entry(name.to_owned()).or_default();
    Ok(asked)
}

impl House {
    /// Who of these is on networks that stays there; everything else is released.
    pub async fn reconcile_networks(&self, live: HashSet<ContainerId>) {
        for (container, error) in self.networks.reconcile(&live).await.failed {
            tracing::warn!(%container, %error, "its networks are not released yet");
        }
    }

    /// The resolver's settings for a container that is about to be started.
    pub fn resolver(&self, record: &Record) -> Option<Dns> {
        if !matches!(request::network(&record.host), Ok(Network::Joined(_))) {
            return request::dns(&record.host);
        }
        let names: Vec<&str> = record.endpoints.keys().map(String::as_str).collect();
        let found = self.networks.resolver(&own_dns(&record.host), &names);
        Some(Dns {
            servers: found.servers,
            searches: found.searches,
            options: found.options,
        })
    }

    /// Connects a container that is about to run to all of its networks, or to none.
    pub async fn join(
        &self,
        record: &mut Record,
        netns: PathBuf,
        ports: Vec<PortRequest>,
    ) -> Result<()> {
        let member = Member {
            id: record.id.clone(),
            name: record.name.clone(),
            netns,
            ports,
            dns: own_dns(&record.host),
        };
        for (name, settings) in record.endpoints.clone() {
            match self.connect(&member, &name, &settings).await {
                Ok(membership) => note(record, &membership),
                Err(error) => {
                    self.leave(record).await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn connect(
        &self,
        member: &Member,
        network: &str,
        settings: &EndpointSettings,
    ) -> Result<Membership> {
        let request = settings.request()?;
        let joined = self
            .networks
            .attach(member.clone(), network, request)
            .await?;
        if let Ok(found) = self.networks.find(network) {
            self.tell(of_network(&found.definition, "connect", &member.id));
        }
        Ok(joined)
    }

    /// Releases what a run had: after its end, or when its start failed.
    pub async fn leave(&self, record: &mut Record) {
        let had = self.networks.of(&record.id);
        if let Err(error) = self.networks.release(&record.id).await {
            tracing::warn!(id = %record.id, %error, "its networks are not released yet");
            return;
        }
        for endpoint in had.iter().flat_map(|had| &had.endpoints) {
            if let Ok(found) = self.networks.find(endpoint.network.as_str()) {
                self.tell(of_network(&found.definition, "disconnect", &record.id));
            }
        }
        record.ports.clear();
        record.addresses.clear();
        record.joined.clear();
    }

    /// Writes into the record of one that runs what it has there: its former daemon may not have come
    /// to that.
    pub fn recall(&self, record: &mut Record) {
        if let Some(had) = self.networks.of(&record.id) {
            note(record, &had);
        }
    }

    /// Connects a container to one more network: now if it runs, and at its next starts.
    pub async fn connect_more(
        &self,
        record: &mut Record,
        network: &str,
        settings: EndpointSettings,
    ) -> Result<()> {
        let definition = self.networks.find(network)?.definition;
        settings.request()?;
        let main = request::network(&record.host)?;
        if let Network::Shared(_) = main {
            return Err(Error::invalid(SHARED));
        }
        let joined = matches!(main, Network::Joined(_));
        if !joined || ["host", "none"].contains(&definition.name.as_str()) {
            return Err(Error::invalid(format!(
                "container {} cannot be connected to network {network}: on the networks host and none a container is alone, from its creation on",
                record.name
            )));
        }
        let running = self.networks.of(&record.id);
        if record.endpoints.contains_key(&definition.name) && running.is_none() {
            return Err(berth_network::Error::AlreadyConnected {
                container: record.name.clone(),
                network: definition.name.clone(),
            }
            .into());
        }
        if let Some(running) = running {
            let name = definition.name.as_str();
            let membership = self.connect(&running.member, name, &settings).await?;
            record.endpoints.insert(definition.name.clone(), settings);
            note(record, &membership);
        } else {
            record.endpoints.insert(definition.name.clone(), settings);
        }
        Ok(())
    }

    /// The opposite; `force` also forgets a network that is there no more.
    pub async fn disconnect(&self, record: &mut Record, network: &str, force: bool) -> Result<()> {
        let definition = match self.networks.find(network) {
            Ok(found) => found.definition,
            Err(_) if force && record.endpoints.remove(network).is_some() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if request::network(&record.host)? == Network::Host {
            return Err(Error::invalid(
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        let missing = || berth_network::Error::NotConnected {
            container: record.name.clone(),
            network: definition.name.clone(),
        };
        if !record.endpoints.contains_key(&definition.name) {
            return Err(missing().into());
        }
        if self.networks.of(&record.id).is_some() {
            self.networks
                .detach(&record.id, definition.id.as_str())
                .await?;
            self.tell(of_network(&definition, "disconnect", &record.id));
        }
        record.endpoints.remove(&definition.name);
        if let Some(left) = self.networks.of(&record.id) {
            note(record, &left);
        }
        Ok(())
    }
}

/// Writes into the record what the container has.
fn note(record: &mut Record, membership: &Membership) {
    let endpoints = &membership.endpoints;
    record.addresses = (endpoints.iter())
        .flat_map(|endpoint| endpoint.addresses.iter().map(|a| a.address))
        .collect();
    record.joined = (endpoints.iter())
        .map(|endpoint| {
            let name = endpoint.network_name.clone();
            let asked = record.endpoints.get(&name).cloned().unwrap_or_default();
            (name, asked.with(endpoint))
        })
        .collect();
    record.ports.clear();
    for port in membership.published() {
        let key = format!("{}/{}", port.container_port, port.protocol);
        record.ports.entry(key).or_default().push(PortBinding {
            host_ip: port.host_ip.to_string(),
            host_port: port.host_port.to_string(),
        });
    }
}

fn own_dns(host: &HostConfig) -> berth_network::Dns {
    berth_network::Dns {
        servers: host.dns.clone(),
        searches: host.dns_search.clone(),
        options: host.dns_options.clone(),
    }
}

fn of_network(network: &NetworkDefinition, action: &str, container: &ContainerId) -> Event {
    let attributes = [
        ("name", network.name.clone()),
        ("type", network.driver.to_string()),
        ("container", container.to_string()),
    ];
    Event {
        kind: "network",
        action: action.to_owned(),
        id: network.id.to_string(),
        attributes: attributes
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(mode: &str, endpoints: serde_json::Value) -> Result<Vec<String>> {
        let host = HostConfig {
            network_mode: mode.to_owned(),
            ..HostConfig::default()
        };
        let networking = serde_json::from_value(json!({ "EndpointsConfig": endpoints })).unwrap();
        Ok(asked(&host, &networking)?.into_keys().collect())
    }

    #[test]
    fn a_container_is_on_the_network_of_its_mode_and_on_those_that_it_names() {
        for (mode, endpoints, wanted) in [
            ("", json!({}), &["bridge"][..]),
            ("default", json!({"default": {}}), &["bridge"]),
            (
                "web",
                json!({"web": {"Aliases": ["a"]}, "back": {}}),
                &["back", "web"],
            ),
            ("none", json!({}), &["none"]),
            ("container:x", json!({"container:x": {}}), &[]),
        ] {
            assert_eq!(names(mode, endpoints).unwrap(), wanted, "{mode}");
        }
        assert!(names("host", json!({"web": {}})).is_err());
        assert!(names("web", json!({"web": {"MacAddress": "x"}})).is_err());
    }
}
