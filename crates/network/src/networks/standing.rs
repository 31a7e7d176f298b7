//! What stands on the host: bridges, cables, and the one table. Everything blocks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use berth_names::NetworkId;
use parking_lot::Mutex;

use super::member::{Endpoint, Membership, PublishedPort};
use super::state::Net;
use crate::bridge::{device, elements_of};
use crate::error::{Error, Result};
use crate::firewall::{Element, Entry, Firewall, NetworksPlan, Owner, concerns_flows};
use crate::netlink::Route;
use crate::threads;

/// A network's interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bridge {
    pub index: u32,
    pub mtu: u32,
}

pub(super) struct Standing {
    plan: NetworksPlan,
    /// Talks to the host's namespace from whatever namespace its user is in.
    pub route: Mutex<Route>,
    /// Made when the first network needs it, and held over that making on purpose.
    firewall: Mutex<Option<Firewall<NetworksPlan>>>,
    /// For interfaces that come back to it.
    host: OwnedFd,
    /// Held while one is made: the second container has nothing to do until then.
    bridges: Mutex<HashMap<NetworkId, Bridge>>,
}

impl Standing {
    /// Opens its socket in the calling thread's network namespace: the host's, from now on.
    pub(super) fn open(name: &str) -> Result<Self> {
        let route = Route::open().map_err(|source| Error::Socket {
            protocol: "route",
            source,
        })?;
        Ok(Self {
            plan: NetworksPlan {
                name: name.to_owned(),
            },
            route: Mutex::new(route),
            host: threads::open_netns(Path::new("/proc/thread-self/ns/net"))?,
            firewall: Mutex::new(None),
            bridges: Mutex::new(HashMap::new()),
        })
    }

    /// The host's network namespace.
    pub(super) fn host_netns(&self) -> Result<OwnedFd> {
        self.host.try_clone().map_err(|source| Error::Io {
            operation: "hold on to",
            path: "/proc/self/ns/net".into(),
            source,
        })
    }

    /// Finds a network's bridge or makes it, and has the table know it. Must run on a thread in the
    /// host's namespace.
    pub(super) fn bridge(&self, net: &Description) -> Result<Bridge> {
        let mut bridges = self.bridges.lock();
        if let Some(bridge) = bridges.get(&net.id) {
            return Ok(*bridge);
        }
        let bridge = self.make(net)?;
        let owner = Owner::Network(net.id.clone());
        let publish = |firewall: &mut Firewall<NetworksPlan>| {
            firewall.withdraw(&owner)?;
            firewall.publish(&owner, net.entries.clone())
        };
        self.with_firewall(publish)?;
        bridges.insert(net.id.clone(), bridge);
        Ok(bridge)
    }

    /// Whether a network's bridge was found or made.
    pub(super) fn stands(&self, network: &NetworkId) -> bool {
        self.bridges.lock().contains_key(network)
    }

    fn make(&self, net: &Description) -> Result<Bridge> {
        let name = net.interface.as_str();
        let mut route = self.route.lock();
        let existing = device::find(name, &mut route)?;
        let mtu = match (net.mtu, &existing) {
            (Some(mtu), _) => mtu,
            (None, Some(link)) => link.mtu,
            (None, None) => device::uplink_mtu(&mut route)
                .map_err(|source| device::refused("list routes", name, source))?,
        };
        let index = device::stand(name, existing, &net.gateways, mtu, &mut route)?;
        if !net.internal {
            device::allow_forwarding(name, &net.subnets)?;
        }
        Ok(Bridge { index, mtu })
    }

    /// Forgets a network; its bridge goes with it unless it was there before.
    pub(super) fn remove(&self, net: &Description) -> Result<()> {
        self.bridges.lock().remove(&net.id);
        let owner = Owner::Network(net.id.clone());
        if let Some(firewall) = &mut *self.firewall.lock() {
            firewall.withdraw(&owner)?;
        }
        if net.adopted {
            return Ok(());
        }
        self.route
            .lock()
            .delete_link(&net.interface)
            .map_err(|source| device::refused("remove the bridge", &net.interface, source))
    }

    /// Makes the host's ports of `next` lead to its container, and those of `before` no more.
    pub(super) fn publish(&self, before: Option<&Membership>, next: &Membership) -> Result<()> {
        let (old, new) = (before.map(elements).unwrap_or_default(), elements(next));
        if old == new {
            return Ok(());
        }
        let owner = Owner::Container(next.member.id.clone());
        let local = self.local_addresses(old.iter().chain(&new))?;
        self.with_firewall(|firewall| {
            firewall.withdraw(&owner)?;
            firewall.publish(&owner, new.iter().map(Entry::from).collect())?;
            if let Some(local) = &local {
                let concerned: Vec<Element> = old.iter().chain(&new).copied().collect();
                firewall.forget_flows(&concerned, local);
            }
            Ok(())
        })
    }

    /// Takes all of a container's ports back.
    pub(super) fn withdraw(&self, membership: &Membership) -> Result<()> {
        let owner = Owner::Container(membership.member.id.clone());
        match &mut *self.firewall.lock() {
            Some(firewall) => firewall.withdraw(&owner),
            None => Ok(()),
        }
    }

    /// The host's addresses, where UDP flows to them may have to be forgotten.
    fn local_addresses<'a>(
        &self,
        elements: impl Iterator<Item = &'a Element>,
    ) -> Result<Option<std::collections::HashSet<IpAddr>>> {
        let elements: Vec<Element> = elements.copied().collect();
        if !concerns_flows(&elements) {
            return Ok(None);
        }
        let addresses = self.route.lock().addresses();
        let addresses = addresses
            .map_err(|source| device::refused("list addresses", &self.plan.name, source))?;
        Ok(Some(addresses.into_iter().map(|a| a.address).collect()))
    }

    /// Makes the table with everything in it: for a daemon that finds containers running.
    pub(super) fn install(&self, entries: HashMap<Owner, Vec<Entry>>) -> Result<()> {
        *self.firewall.lock() = Some(Firewall::install(self.plan.clone(), entries)?);
        Ok(())
    }

    fn with_firewall<T>(
        &self,
        task: impl FnOnce(&mut Firewall<NetworksPlan>) -> Result<T>,
    ) -> Result<T> {
        let mut firewall = self.firewall.lock();
        if firewall.is_none() {
            *firewall = Some(Firewall::install(self.plan.clone(), HashMap::new())?);
        }
        match &mut *firewall {
            Some(firewall) => task(firewall),
            None => Err(Error::TaskLost { task: "firewall" }),
        }
    }

    /// Puts back what others removed; says whether anything was amiss. `ports` are the names of a
    /// network's cables.
    pub(super) fn heal(
        &self,
        nets: &[Description],
        cables: impl Fn(&NetworkId) -> Vec<(String, bool)>,
    ) -> Result<bool> {
        let mut amiss = false;
        for net in nets {
            let mut bridges = self.bridges.lock();
            let Some(bridge) = bridges.get(&net.id).copied() else {
                continue;
            };
            let found = device::find(&net.interface, &mut self.route.lock())?;
            if found.is_some_and(|link| link.index == bridge.index && link.up) {
                continue;
            }
            amiss = true;
            let bridge = self.make(net)?;
            bridges.insert(net.id.clone(), bridge);
            for (cable, isolated) in cables(&net.id) {
                let mut route = self.route.lock();
                // A container that is going has no cable any more.
                let plugged = route.set_controller(&cable, bridge.index);
                let _ = plugged.and_then(|()| match isolated {
                    true => route.set_isolated(&cable),
                    false => route.set_hairpin(&cable),
                });
            }
        }
        match &mut *self.firewall.lock() {
            Some(firewall) => Ok(firewall.heal()? || amiss),
            None => Ok(amiss),
        }
    }

    /// Removes the table: for a host that gives up on Berth.
    pub(super) fn dismantle(&self) -> Result<()> {
        match self.firewall.lock().take() {
            Some(mut firewall) => firewall.remove(),
            None => Ok(()),
        }
    }
}

/// A network, as far as the host is concerned.
#[derive(Debug, Clone)]
pub(super) struct Description {
    pub id: NetworkId,
    pub interface: String,
    pub subnets: Vec<crate::Subnet>,
    gateways: Vec<(IpAddr, u8)>,
    mtu: Option<u32>,
    pub internal: bool,
    pub isolated: bool,
    adopted: bool,
    pub entries: Vec<Entry>,
}

impl Description {
    pub(super) fn of(net: &Net) -> Self {
        let subnets = net.subnets();
        let definition = &net.definition;
        Self {
            id: definition.id.clone(),
            interface: definition.interface.clone(),
            gateways: (definition.subnets.iter())
                .map(|s| (s.gateway, s.subnet.prefix()))
                .collect(),
            mtu: net.options.mtu,
            internal: definition.internal,
            isolated: !net.options.icc,
            adopted: definition.adopted,
            entries: net.traits(&subnets).entries(),
            subnets,
        }
    }
}

/// Where a container's published ports lead.
fn elements(membership: &Membership) -> Vec<Element> {
    // What a plugin's network publishes is up to that.
    let gateway = membership.way_out().filter(|way| way.plug.is_none());
    let addresses = |endpoint: &Endpoint| -> Vec<IpAddr> {
        endpoint.addresses.iter().map(|a| a.address).collect()
    };
    let ports = membership.ports.iter().map(PublishedPort::mapping);
    let addresses = gateway.map(addresses).unwrap_or_default();
    elements_of(&addresses, &ports.collect::<Vec<_>>())
}

/// The entries of a container's published ports.
pub(super) fn entries(membership: &Membership) -> Vec<Entry> {
    elements(membership).iter().map(Entry::from).collect()
}
