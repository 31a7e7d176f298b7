//! What a container has of a network's plugins: an address, an endpoint, an interface.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use berth_plugins::{
    Cidr, Error as PluginError, IpamDriver, Joined, NetworkDriver as Driver, Patience,
    PluginInterface,
};
use serde_json::{Map, Value, json};

use super::definition::{NetworkDefinition, NetworkDriver};
use super::ledger::{Entry, Step};
use super::member::{
    Endpoint, EndpointAddress, HostPort, MacAddress, Member, Membership, Plug, PlugRoute,
    PublishedPort,
};
use super::state::{derived_mac, numbered};
use super::{Inner, moved, random};
use crate::error::{Error, Result};
use crate::pod::Protocol;
use crate::subnet::Subnet;

type Told = std::result::Result<(), PluginError>;

const PORTS: &str = "com.docker.network.portmap";
const EXPOSED: &str = "com.docker.network.endpoint.exposedports";
const MAC: &str = "com.docker.network.endpoint.macaddress";
/// An interface's name has 15 bytes; these leave room for its number.
const LONGEST_PREFIX: usize = 11;

impl Inner {
    /// Asks the plugins of the network that a container comes to for what it needs there.
    pub(super) fn plug_in(self: &Arc<Self>, next: &mut Membership) -> Result<()> {
        let Some(mut endpoint) = next.endpoints.pop() else {
            return Ok(());
        };
        let definition = {
            let state = self.state.lock();
            let net = state.networks.get(&endpoint.network);
            net.map(|net| Arc::clone(&net.definition))
        };
        let plugged = match &definition {
            Some(net) => self.plug_in_to(net, next, &mut endpoint),
            None => Ok(()),
        };
        next.endpoints.push(endpoint);
        next.gateway = super::state::gateway(&next.endpoints);
        plugged
    }

    fn plug_in_to(
        self: &Arc<Self>,
        net: &NetworkDefinition,
        others: &Membership,
        endpoint: &mut Endpoint,
    ) -> Result<()> {
        if net.plugin().is_none() && net.ipam_plugin().is_none() {
            return Ok(());
        }
        // What it still has of others may be in the way.
        for (_, owner) in self
            .orphans()
            .into_iter()
            .filter(|(network, _)| *network == net.id)
        {
            self.settle(&owner)?;
        }
        self.ledger.begin(Entry {
            network: net.id.clone(),
            endpoint: Some(endpoint.id.clone()),
            driver: net.plugin().unwrap_or_default().to_owned(),
            ipam: net.ipam_plugin().unwrap_or_default().to_owned(),
            steps: Vec::new(),
        });
        if let Some(ipam) = net.ipam_plugin() {
            self.give_addresses(net, ipam, endpoint)?;
        }
        match net.plugin() {
            Some(driver) => self.join_plugged(driver, others, endpoint),
            None => Ok(()),
        }
    }

    fn give_addresses(
        &self,
        net: &NetworkDefinition,
        ipam: &str,
        endpoint: &mut Endpoint,
    ) -> Result<()> {
        let what = ("connect to network", net.name.as_str());
        let (plugins, ipam) = (self.config.plugins.clone(), ipam.to_owned());
        let (driver, requires_mac) = self.ask(what, async move {
            let driver = IpamDriver::open(&plugins, &ipam, Patience::Change).await?;
            let requires_mac = driver.requires_mac().await?;
            Ok((driver, requires_mac))
        })?;
        if requires_mac && endpoint.mac.is_none() {
            let [a, b, c, d]: [u8; 4] = random()?;
            endpoint.mac = Some(MacAddress([0x02, 0x42, a, b, c, d]));
        }
        let mac = endpoint.mac.filter(|_| requires_mac);
        let mac = mac.map(|mac| (MAC.to_owned(), mac.to_string()));
        let options: BTreeMap<String, String> = mac.into_iter().collect();
        let owner = endpoint.id.to_string();
        for config in &net.subnets {
            let wanted = match config.subnet.is_ipv4() {
                true => endpoint.request.ipv4.map(IpAddr::V4),
                false => endpoint.request.ipv6.map(IpAddr::V6),
            };
            let from = (&driver, config.pool.as_str());
            let given = self.take_address(&owner, from, wanted, options.clone(), what)?;
            let nonsense = |text: String| {
                let cause = driver.nonsense("IpamDriver.RequestAddress", text);
                plugged(what, cause)
            };
            if !config.subnet.contains(given.address) {
                let subnet = config.subnet;
                return Err(nonsense(format!("{given}, which is not in {subnet}")));
            }
            if let Some(holder) = self.holder(net, given.address) {
                // It is not this endpoint's to give back.
                self.ledger.change(&owner, |steps| _ = steps.pop())?;
                return Err(nonsense(format!("{given}, which container {holder} has")));
            }
            let leads = net.plugin().is_none() && !net.internal;
            endpoint.addresses.push(EndpointAddress {
                address: given.address,
                prefix: given.prefix,
                gateway: leads.then_some(config.gateway),
            });
        }
        if net.driver == NetworkDriver::Bridge && endpoint.mac.is_none() {
            endpoint.mac = endpoint.addresses.first().map(derived_mac);
        }
        Ok(())
    }

    /// Who has an address of a network.
    fn holder(&self, net: &NetworkDefinition, address: IpAddr) -> Option<String> {
        let state = self.state.lock();
        let mut on = state.on(&net.id);
        let has = |endpoint: &Endpoint| endpoint.addresses.iter().any(|a| a.address == address);
        on.find(|(_, endpoint)| has(endpoint))
            .map(|(member, _)| member.name.clone())
    }

    fn join_plugged(
        &self,
        driver: &str,
        others: &Membership,
        endpoint: &mut Endpoint,
    ) -> Result<()> {
        let name = endpoint.network_name.clone();
        let what = ("connect to network", name.as_str());
        let (plugins, driver) = (self.config.plugins.clone(), driver.to_owned());
        let driver = self.ask(what, async move {
            Driver::open(&plugins, &driver, Patience::Change).await
        })?;
        let (owner, network) = (endpoint.id.to_string(), endpoint.network.to_string());
        let (asked, id, on) = (driver.clone(), owner.clone(), network.clone());
        let sent = interface(endpoint);
        let (offered, options) = (sent.clone(), options(&others.member, endpoint));
        let added = self.ask_for((&owner, Step::Endpoint), what, async move {
            asked.create_endpoint(&on, &id, &offered, &options).await
        })?;
        complete(&driver, endpoint, &sent, added).map_err(|cause| plugged(what, cause))?;
        let (asked, id, netns) = (driver.clone(), owner.clone(), others.member.netns.clone());
        let joined = self.ask_for((&owner, Step::Join), what, async move {
            asked.join(&network, &id, &netns, &Map::new()).await
        })?;
        take_up(&driver, others, endpoint, joined).map_err(|cause| plugged(what, cause))
    }

    /// Moves the interface that a plugin has made into its container.
    pub(super) fn bring_in(&self, member: &Member, endpoint: &mut Endpoint) -> Result<()> {
        let Some(plug) = &endpoint.plug else {
            return Ok(());
        };
        let owner = endpoint.id.as_str();
        let step = Step::Interface {
            netns: member.netns.clone(),
            outside: plug.source.clone(),
        };
        self.ledger.change(owner, |steps| {
            // Out again once the plugin was told to leave.
            let before = steps.iter().position(|step| *step == Step::Join);
            steps.insert(before.unwrap_or(steps.len()), step);
        })?;
        let names = (plug.source.as_str(), endpoint.interface.as_str());
        let route = &self.standing.route;
        let mac = moved::into(route, &member.netns, names, endpoint.mac, &endpoint.id)?;
        if mac.is_none() {
            return Err(Error::InterfaceMissing {
                interface: plug.source.clone(),
                network: endpoint.network_name.clone(),
            });
        }
        endpoint.mac = mac;
        Ok(())
    }

    /// Tells drivers whose endpoint the way out is, and whose no more.
    pub(super) fn lead_out(
        &self,
        before: Option<&Membership>,
        next: &mut Membership,
    ) -> Result<()> {
        let plugged_way = |membership: &Membership| -> Option<Endpoint> {
            let way = membership.way_out()?;
            way.plug.is_some().then(|| way.clone())
        };
        let new = plugged_way(next);
        let leads = |endpoint: &Endpoint| new.as_ref().is_some_and(|new| new.id == endpoint.id);
        let stays = |old: &Endpoint| next.endpoints.iter().any(|e| e.id == old.id);
        let old = before.and_then(plugged_way);
        let old = old.filter(|old| stays(old) && !leads(old) && self.is_led_out(old));
        if let Some(old) = old {
            self.revoke(&old);
        }
        let Some(new) = new.filter(|new| !self.is_led_out(new)) else {
            return Ok(());
        };
        let published = self.program(&next.member, &new)?;
        let mut endpoints = next.endpoints.iter_mut();
        let plug = endpoints.find(|endpoint| endpoint.id == new.id);
        if let Some(plug) = plug.and_then(|endpoint| endpoint.plug.as_mut()) {
            plug.published = published;
        }
        Ok(())
    }

    fn program(&self, member: &Member, endpoint: &Endpoint) -> Result<Vec<PublishedPort>> {
        let owner = endpoint.id.to_string();
        let (id, network) = (owner.clone(), endpoint.network.to_string());
        let (driver, options) = (self.driver_of(endpoint), options(member, endpoint));
        let what = ("connect to network", endpoint.network_name.as_str());
        let plugins = self.config.plugins.clone();
        let asked = !member.ports.is_empty();
        let info = self.ask_for((&owner, Step::WayOut), what, async move {
            let driver = Driver::open(&plugins, &driver, Patience::Change).await?;
            driver.program_external(&network, &id, &options).await?;
            match asked {
                true => driver.endpoint_info(&network, &id).await,
                false => Ok(Map::new()),
            }
        })?;
        Ok(published(&info))
    }

    /// A plugin that does not hear it is told at the endpoint's end.
    fn revoke(&self, endpoint: &Endpoint) {
        let (id, network) = (endpoint.id.to_string(), endpoint.network.to_string());
        let (driver, plugins) = (self.driver_of(endpoint), self.config.plugins.clone());
        let what = ("leave", endpoint.network_name.as_str());
        let asked = self.ask(what, async move {
            let driver = Driver::open(&plugins, &driver, Patience::Change).await?;
            driver.revoke_external(&network, &id).await
        });
        let struck = asked.and_then(|()| {
            let owner = endpoint.id.as_str();
            self.ledger
                .change(owner, |steps| steps.retain(|step| *step != Step::WayOut))
        });
        if let Err(error) = struck {
            tracing::warn!(network = endpoint.network_name, %error, "a way out is not closed yet");
        }
    }

    fn is_led_out(&self, endpoint: &Endpoint) -> bool {
        let entry = self.ledger.get(endpoint.id.as_str());
        entry.is_some_and(|entry| entry.lock().steps.contains(&Step::WayOut))
    }

    fn driver_of(&self, endpoint: &Endpoint) -> String {
        let entry = self.ledger.get(endpoint.id.as_str());
        entry.map_or_else(String::new, |entry| entry.lock().driver.clone())
    }
}

fn plugged((action, name): (&'static str, &str), cause: PluginError) -> Error {
    Error::Plugged {
        action,
        name: name.to_owned(),
        cause: Box::new(cause),
    }
}

/// What the endpoint has already.
fn interface(endpoint: &Endpoint) -> PluginInterface {
    let cidr = |found: Option<&EndpointAddress>| {
        found.map(|found| Cidr {
            address: found.address,
            prefix: found.prefix,
        })
    };
    PluginInterface {
        ipv4: cidr(endpoint.ipv4()),
        ipv6: cidr(endpoint.ipv6()),
        mac: endpoint.mac.map_or_else(String::new, |mac| mac.to_string()),
    }
}

/// What the container is to be reached by, and what its user asks of the driver.
fn options(member: &Member, endpoint: &Endpoint) -> Map<String, Value> {
    let own = endpoint.request.options.iter();
    let mut options: Map<String, Value> = own.map(|(k, v)| (k.clone(), json!(v))).collect();
    let exposed = member.ports.iter().map(|port| {
        let (protocol, port) = (number(port.protocol), port.container_port);
        json!({ "Proto": protocol, "Port": port })
    });
    options.insert(EXPOSED.to_owned(), exposed.collect());
    let mapped = member.ports.iter().map(|port| {
        let (first, last) = match &port.host_port {
            HostPort::Any => (0, 0),
            HostPort::Among(range) => (*range.start(), *range.end()),
        };
        json!({
            "Proto": number(port.protocol),
            "IP": "",
            "Port": port.container_port,
            "HostIP": port.host_ip.map_or_else(String::new, |ip| ip.to_string()),
            "HostPort": first,
            "HostPortEnd": last,
        })
    });
    options.insert(PORTS.to_owned(), mapped.collect());
    options
}

/// As `/etc/protocols` has them.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The ports that a driver tells to lead to an endpoint; most tell none.
fn published(info: &Map<String, Value>) -> Vec<PublishedPort> {
    let ports = info.get(PORTS).and_then(Value::as_array);
    let ports = ports.into_iter().flatten().filter_map(|port| {
        let small = |key: &str| u16::try_from(port[key].as_u64()?).ok();
        let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocol = small("Proto")?;
        Some(PublishedPort {
            protocol: (known.into_iter()).find(|one| u16::from(number(*one)) == protocol)?,
            container_port: small("Port")?,
            host_ip: port["HostIP"].as_str()?.parse().ok()?,
            host_port: small("HostPort").filter(|port| *port > 0)?,
            forwarded: false,
        })
    });
    ports.collect()
}

/// Takes what the driver added to an endpoint; it changes nothing that was given.
fn complete(
    driver: &Driver,
    endpoint: &mut Endpoint,
    sent: &PluginInterface,
    added: PluginInterface,
) -> Told {
    let method = "NetworkDriver.CreateEndpoint";
    for (given, added) in [(sent.ipv4, added.ipv4), (sent.ipv6, added.ipv6)] {
        match (given, added) {
            (_, None) => {}
            (Some(given), Some(added)) if given == added => {}
            (Some(given), Some(added)) => {
                return Err(driver.nonsense(method, format!("{added}, where it was given {given}")));
            }
            (None, Some(Cidr { address, prefix })) => endpoint.addresses.push(EndpointAddress {
                address,
                prefix,
                gateway: None,
            }),
        }
    }
    if added.mac.is_empty() {
        return Ok(());
    }
    let mac: MacAddress = (added.mac.parse::<MacAddress>())
        .map_err(|error| driver.nonsense(method, format!("a MAC: {error}")))?;
    match endpoint.mac.replace(mac) {
        Some(given) if given != mac => {
            Err(driver.nonsense(method, format!("MAC {mac}, where it was given {given}")))
        }
        _ => Ok(()),
    }
}

/// Takes up what the driver said of an endpoint that has joined: what its interface is called, and
/// where it leads.
fn take_up(driver: &Driver, others: &Membership, endpoint: &mut Endpoint, joined: Joined) -> Told {
    let nonsense = |what: String| driver.nonsense("NetworkDriver.Join", what);
    let good = |name: &str, longest: usize| {
        let letter = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':');
        (1..=longest).contains(&name.len()) && name.bytes().all(letter) && !name.starts_with('.')
    };
    let source = joined.source.as_str();
    if !good(source, 15) || source == "lo" {
        return Err(nonsense(format!("the interface {source:?}")));
    }
    let prefix = match joined.prefix.as_str() {
        "" => "eth",
        prefix if good(prefix, LONGEST_PREFIX) => prefix,
        prefix => return Err(nonsense(format!("the prefix {prefix:?}"))),
    };
    if endpoint.request.interface.is_none() {
        let taken: HashSet<&str> = (others.endpoints.iter())
            .map(|other| other.interface.as_str())
            .collect();
        if let Some(name) = numbered(prefix, &taken) {
            endpoint.interface = name;
        }
    }
    for address in &mut endpoint.addresses {
        address.gateway = match address.address.is_ipv4() {
            true => joined.gateway,
            false => joined.gateway_ipv6,
        };
    }
    let routes = joined.routes.iter().filter_map(|route| {
        let Cidr { address, prefix } = route.destination;
        Some(PlugRoute {
            destination: Subnet::new(address, prefix).ok()?,
            next_hop: route.next_hop,
        })
    });
    endpoint.plug = Some(Plug {
        routes: routes.collect(),
        source: joined.source,
        published: Vec::new(),
    });
    Ok(())
}
