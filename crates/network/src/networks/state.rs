//! Who is where: networks, the containers on them, addresses and ports. Memory only, made from the
//! records; everything here is decided without asking anybody.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use berth_names::{ContainerId, EndpointId, NetworkId};

use super::definition::{NetworkDefinition, NetworkDriver};
use super::ipam::Occupied;
use super::member::{
    Endpoint, EndpointAddress, EndpointRequest, MacAddress, Member, Membership, Plug,
};
use super::options::{BridgeOptions, check_interface};
use crate::addresses::{Pool, Unavailable};
use crate::bridge::device::mac_of;
use crate::error::{Error, Result};
use crate::firewall::Traits;
use crate::ports::Ports;
use crate::subnet::Subnet;

const MOST_ALIASES: usize = 256;
const LONGEST_NAME: usize = 253;
/// What `ethN` is searched in.
const MOST_INTERFACES: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct State {
    pub networks: HashMap<NetworkId, Net>,
    /// Networks that are being made or removed with plugins, which may take long: what they are
    /// called and their subnets are theirs meanwhile.
    pub making: HashMap<NetworkId, (String, Vec<Subnet>)>,
    pub members: HashMap<ContainerId, Membership>,
    pub ports: Ports<ContainerId>,
    /// Where the search for a free host port begins.
    pub next_port: u16,
}

/// One network.
#[derive(Debug)]
pub(super) struct Net {
    pub definition: Arc<NetworkDefinition>,
    pub options: BridgeOptions,
    pools: Vec<Pool<Holder>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Reserved,
    Container(ContainerId),
}

impl Net {
    pub(super) fn new(definition: NetworkDefinition) -> Result<Self> {
        let options = match definition.plugin() {
            None => BridgeOptions::parse(&definition.options)?,
            // Its options are its own.
            Some(_) => BridgeOptions::parse(&Default::default())?,
        };
        let own = definition.subnets.iter();
        let own = own.filter(|_| definition.gives_addresses());
        let pools = own.map(|config| {
            let mut pool = Pool::within(config.subnet, config.range);
            let reserved = config.auxiliary.values().chain([&config.gateway]);
            reserved.for_each(|address| pool.restore(*address, &Holder::Reserved));
            pool
        });
        Ok(Self {
            pools: pools.collect(),
            definition: Arc::new(definition),
            options,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.definition.name
    }

    pub(super) fn subnets(&self) -> Vec<Subnet> {
        self.definition.subnets.iter().map(|s| s.subnet).collect()
    }

    pub(super) fn traits<'a>(&'a self, subnets: &'a [Subnet]) -> Traits<'a> {
        Traits {
            interface: &self.definition.interface,
            subnets,
            icc: self.options.icc,
            internal: self.definition.internal,
            masquerade: self.options.masquerade,
        }
    }

    /// An address of each family, or none.
    fn take(
        &mut self,
        container: &ContainerId,
        request: &EndpointRequest,
    ) -> Result<Vec<EndpointAddress>> {
        let owner = Holder::Container(container.clone());
        // A plugin says itself whether it leads on.
        let leads = !self.definition.internal && self.definition.plugin().is_none();
        let mut taken = Vec::new();
        for (config, pool) in self.definition.subnets.iter().zip(&mut self.pools) {
            let wanted = match config.subnet.is_ipv4() {
                true => request.ipv4.map(IpAddr::V4),
                false => request.ipv6.map(IpAddr::V6),
            };
            let address = match wanted {
                Some(address) => pool
                    .claim(address, &owner)
                    .map(|()| address)
                    .map_err(|reason| unavailable(&self.definition.name, address, reason)),
                None => pool.take(&owner),
            };
            match address {
                Ok(address) => taken.push(EndpointAddress {
                    address,
                    prefix: config.subnet.prefix(),
                    gateway: leads.then_some(config.gateway),
                }),
                Err(error) => {
                    self.release(container);
                    return Err(error);
                }
            }
        }
        Ok(taken)
    }

    pub(super) fn restore(&mut self, container: &ContainerId, endpoint: &Endpoint) {
        let owner = Holder::Container(container.clone());
        for address in &endpoint.addresses {
            for pool in &mut self.pools {
                pool.restore(address.address, &owner);
            }
        }
    }

    pub(super) fn release(&mut self, container: &ContainerId) {
        let owner = Holder::Container(container.clone());
        self.pools.iter_mut().for_each(|pool| pool.release(&owner));
    }

    /// Refuses what no address search could mend.
    fn check(&self, request: &EndpointRequest) -> Result<()> {
        let invalid = |reason: String| {
            Err(Error::EndpointInvalid {
                network: self.name().to_owned(),
                reason,
            })
        };
        let addresses: Vec<IpAddr> = (request.ipv4.map(IpAddr::V4).into_iter())
            .chain(request.ipv6.map(IpAddr::V6))
            .collect();
        if !self.definition.user_defined() {
            if !addresses.is_empty() {
                return invalid(
                    "user specified IP address is supported on user defined networks only"
                        .to_owned(),
                );
            }
            if !request.aliases.is_empty() {
                return invalid(
                    "network-scoped aliases are only supported for user-defined networks"
                        .to_owned(),
                );
            }
        }
        let subnets = self.subnets();
        let outside = |address: &&IpAddr| !subnets.iter().any(|s| s.contains(**address));
        if let Some(address) = addresses.iter().find(outside) {
            return invalid(format!(
                "no configured subnet contains IP address {address}"
            ));
        }
        if let Some(name) = &request.interface {
            check_interface("com.docker.network.endpoint.ifname", name)?;
        }
        let good = |name: &&String| {
            (1..=LONGEST_NAME).contains(&name.len())
                && !name.contains(|c: char| c.is_control() || c.is_whitespace())
        };
        if request.aliases.len() > MOST_ALIASES {
            return invalid(format!("more than {MOST_ALIASES} aliases"));
        }
        match request.aliases.iter().find(|name| !good(name)) {
            Some(name) => {
                let name: String = name.chars().take(64).collect();
                invalid(format!("alias {name:?} is no name"))
            }
            None => Ok(()),
        }
    }
}

fn unavailable(network: &str, address: IpAddr, reason: Unavailable) -> Error {
    let network = network.to_owned();
    match reason {
        Unavailable::Taken => Error::AddressTaken { address, network },
        Unavailable::Unusable => Error::EndpointInvalid {
            network,
            reason: format!("{address} is the subnet's own or its broadcast address"),
        },
    }
}

impl State {
    /// By whole id, by name, or by the beginning of an id that no other network has.
    pub(super) fn find(&self, reference: &str) -> Result<&Net> {
        if let Some(net) = self.networks.get(reference) {
            return Ok(net);
        }
        let mut named = self.networks.values().filter(|net| net.name() == reference);
        if let Some(net) = named.next() {
            return Ok(net);
        }
        let begins =
            |net: &&Net| !reference.is_empty() && net.definition.id.as_str().starts_with(reference);
        let found: Vec<_> = self.networks.values().filter(begins).collect();
        let shown = || reference.chars().take(64).collect();
        match found.as_slice() {
            [net] => Ok(net),
            [] => Err(Error::NetworkNotFound { reference: shown() }),
            many => Err(Error::NetworkAmbiguous {
                reference: shown(),
                count: many.len(),
            }),
        }
    }

    /// The containers on a network.
    pub(super) fn on<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> impl Iterator<Item = (&'a Member, &'a Endpoint)> + 'a {
        self.members.values().filter_map(move |membership| {
            let endpoint = membership
                .endpoints
                .iter()
                .find(|endpoint| endpoint.network == *network)?;
            Some((&membership.member, endpoint))
        })
    }

    pub(super) fn occupied(&self, host: Vec<Subnet>) -> Occupied {
        let networks = self.networks.values().flat_map(|net| {
            net.subnets()
                .into_iter()
                .map(|subnet| (subnet, net.name().to_owned()))
        });
        let making = self.making.values().flat_map(|(name, subnets)| {
            let subnets = subnets.iter();
            subnets.map(|subnet| (*subnet, name.clone()))
        });
        Occupied {
            networks: networks.chain(making).collect(),
            host,
        }
    }

    /// Takes what a container needs on one more network; returns its networks with that one. The
    /// membership itself is changed by whoever has made it true.
    pub(super) fn join(
        &mut self,
        member: &Member,
        reference: &str,
        request: EndpointRequest,
        id: EndpointId,
    ) -> Result<Membership> {
        let network = self.find(reference)?.definition.id.clone();
        let mut membership = self.membership(member);
        let Some(net) = self.networks.get_mut(&network) else {
            return Err(Error::NetworkNotFound {
                reference: reference.to_owned(),
            });
        };
        if membership.endpoints.iter().any(|e| e.network == network) {
            return Err(Error::AlreadyConnected {
                container: member.name.clone(),
                network: net.name().to_owned(),
            });
        }
        net.check(&request)?;
        let interface = interface(&membership, net, &request)?;
        let addresses = net.take(&member.id, &request)?;
        let plugged = net.definition.plugin().is_some();
        let derived = addresses.first().filter(|_| !plugged).map(derived_mac);
        let mut names = Vec::new();
        if net.definition.user_defined() {
            let short = berth_names::short(member.id.as_str());
            let all = [member.name.as_str(), short].into_iter();
            for name in all.chain(request.aliases.iter().map(String::as_str)) {
                if !name.is_empty() && !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
        }
        membership.endpoints.push(Endpoint {
            id,
            network,
            network_name: net.name().to_owned(),
            mac: match interface.is_empty() {
                true => None,
                false => request.mac.or(derived),
            },
            interface,
            addresses,
            names,
            request,
            plug: plugged.then(Plug::default),
        });
        membership.gateway = gateway(&membership.endpoints);
        Ok(membership)
    }

    fn membership(&self, member: &Member) -> Membership {
        let known = self.members.get(&member.id);
        Membership {
            member: member.clone(),
            endpoints: known.map(|m| m.endpoints.clone()).unwrap_or_default(),
            gateway: known.and_then(|m| m.gateway.clone()),
            ports: known.map(|m| m.ports.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn is_making(&self, network: &NetworkId) -> bool {
        self.making.contains_key(network)
    }

    /// A container's networks without one of them.
    pub(super) fn without(
        &self,
        container: &ContainerId,
        network: &NetworkId,
    ) -> Option<Membership> {
        let mut membership = self.members.get(container)?.clone();
        let before = membership.endpoints.len();
        membership.endpoints.retain(|e| e.network != *network);
        if membership.endpoints.len() == before {
            return None;
        }
        membership.gateway = gateway(&membership.endpoints);
        Some(membership)
    }
}

fn interface(membership: &Membership, net: &Net, request: &EndpointRequest) -> Result<String> {
    let others = &membership.endpoints;
    let bare = |endpoint: &Endpoint| endpoint.interface.is_empty();
    let alone = matches!(
        net.definition.driver,
        NetworkDriver::Host | NetworkDriver::Null
    );
    if alone && !others.is_empty() || others.iter().any(bare) {
        return Err(Error::EndpointInvalid {
            network: net.name().to_owned(),
            reason: "a container on the network host or none is on no other".to_owned(),
        });
    }
    if alone {
        return Ok(String::new());
    }
    let taken: HashSet<&str> = others.iter().map(|e| e.interface.as_str()).collect();
    if let Some(name) = &request.interface {
        if taken.contains(name.as_str()) || name == "lo" {
            return Err(Error::EndpointInvalid {
                network: net.name().to_owned(),
                reason: format!("the container has an interface {name} already"),
            });
        }
        return Ok(name.clone());
    }
    numbered("eth", &taken).ok_or_else(|| Error::EndpointInvalid {
        network: net.name().to_owned(),
        reason: format!("the container has {MOST_INTERFACES} interfaces"),
    })
}

/// The first name of that prefix that is free.
pub(super) fn numbered(prefix: &str, taken: &HashSet<&str>) -> Option<String> {
    (0..MOST_INTERFACES)
        .map(|number| format!("{prefix}{number}"))
        .find(|name| !taken.contains(name.as_str()))
}

/// The hardware address of an interface that nobody chose one for.
pub(super) fn derived_mac(address: &EndpointAddress) -> MacAddress {
    MacAddress(mac_of(address.address))
}

/// The network that is the way out: the highest priority, then IPv4, then the first by name.
pub(super) fn gateway(endpoints: &[Endpoint]) -> Option<NetworkId> {
    way_out(endpoints, true)
        .or_else(|| way_out(endpoints, false))
        .map(|endpoint| endpoint.network.clone())
}

/// Whose gateway is the default route of a family.
pub(super) fn way_out(endpoints: &[Endpoint], v4: bool) -> Option<&Endpoint> {
    let leads = |endpoint: &&Endpoint| {
        let mut addresses = endpoint.addresses.iter();
        addresses.any(|a| a.address.is_ipv4() == v4 && a.gateway.is_some())
    };
    endpoints.iter().filter(leads).min_by_key(|endpoint| {
        let priority = std::cmp::Reverse(endpoint.request.gateway_priority);
        (priority, endpoint.network_name.as_str())
    })
}
