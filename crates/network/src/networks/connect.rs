//! Connecting containers and letting them go.
//!
//! ```text
//!            attach: take, plugins, record, bridge, ports, cable, inside
//!   (none) ------------------------------------------------------> attached
//!          <------------------------------------------------------
//!            detach, release: ports, cable, record, give back, plugins
//! ```
//!
//! A container's record has an endpoint of a plugin's once that is whole: until then the ledger
//! alone knows it, and whoever finds it there gives it back.
//!
//! Everything blocks and may leave its thread in the container's namespace: callers give it one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use berth_names::{ContainerId, NetworkId};

use super::member::{Endpoint, EndpointRequest, Member, Membership};
use super::settle::WAIT;
use super::standing::{Description, entries};
use super::state::Net;
use super::{Inner, cable, endpoint_id, publish};
use crate::error::{Error, Result};
use crate::firewall::Owner;

impl Inner {
    pub(super) fn attach(
        self: &Arc<Self>,
        member: &Member,
        reference: &str,
        request: EndpointRequest,
    ) -> Result<Membership> {
        let id = endpoint_id()?;
        self.choose_again(reference)?;
        let (before, mut next) = {
            let mut state = self.state.lock();
            let before = state.members.get(&member.id).cloned();
            let next = state.join(member, reference, request, id)?;
            // From here on nobody removes the network.
            state.members.insert(member.id.clone(), next.clone());
            (before, next)
        };
        let connected = self.connect(before.as_ref(), &mut next);
        match connected {
            Ok(()) => Ok(next),
            Err(error) => {
                if let Err(left) = self.undo(before, &next) {
                    tracing::warn!(container = %member.id, ?left, "a failed attachment is not undone yet");
                }
                Err(error)
            }
        }
    }

    fn connect(self: &Arc<Self>, before: Option<&Membership>, next: &mut Membership) -> Result<()> {
        self.plug_in(next)?;
        self.allocate(next)?;
        let Some(endpoint) = next.endpoints.last_mut() else {
            return Ok(());
        };
        self.bring_in(&next.member, endpoint)?;
        let endpoint = endpoint.clone();
        if endpoint.plug.is_some() {
            self.standing.publish(before, next)?;
            cable::enter(&next.member.netns)?;
            cable::configure(next, Some(&endpoint))?;
            self.serve_names_here(next)?;
        } else {
            self.store.put_membership(next)?;
        }
        if endpoint.is_cabled() {
            let net = self.description(&endpoint.network)?;
            let bridge = self.standing.bridge(&net)?;
            // The table belongs to the host's namespace by its socket; a refused port costs no
            // interface.
            self.standing.publish(before, next)?;
            let netns = &next.member.netns;
            cable::plug(&self.standing.route, bridge, net.isolated, &endpoint, netns)?;
            cable::enter(netns)?;
            cable::configure(next, Some(&endpoint))?;
            self.serve_names_here(next)?;
        }
        if next.is_plugged() {
            self.lead_out(before, next)?;
            self.store.put_membership(next)?;
        }
        self.remember(next.clone());
        Ok(())
    }

    /// What a container's networks are from now on, for everybody who asks.
    pub(super) fn remember(&self, membership: Membership) {
        self.resolving.directory.set(&membership);
        let mut state = self.state.lock();
        state
            .members
            .insert(membership.member.id.clone(), membership);
    }

    /// Finds host ports once the container has a gateway. It keeps them until it ends, whichever
    /// network they are published by.
    fn allocate(&self, next: &mut Membership) -> Result<()> {
        if next.member.ports.is_empty() || !next.ports.is_empty() {
            return Ok(());
        }
        // A plugin publishes what it leads to.
        let Some(gateway) = next.way_out().filter(|way| way.plug.is_none()) else {
            return Ok(());
        };
        let binding = {
            let state = self.state.lock();
            let net = state.networks.get(&gateway.network);
            net.and_then(|net| net.options.host_binding)
        };
        let allocated =
            publish::allocate(&self.state, &self.claims, &next.member, gateway, binding)?;
        next.ports = allocated.ports;
        self.held
            .lock()
            .insert(next.member.id.clone(), allocated.held);
        Ok(())
    }

    fn description(&self, network: &NetworkId) -> Result<Description> {
        let state = self.state.lock();
        let net = state.networks.get(network);
        net.map(Description::of)
            .ok_or_else(|| Error::NetworkNotFound {
                reference: network.to_string(),
            })
    }

    /// Takes back what an attachment that failed may have done.
    fn undo(self: &Arc<Self>, before: Option<Membership>, next: &Membership) -> Result<()> {
        let Some(endpoint) = next.endpoints.last() else {
            return Ok(());
        };
        let Some(mut before) = before else {
            return self.let_go(next, true, WAIT);
        };
        self.standing.publish(Some(next), &before)?;
        if endpoint.is_cabled() {
            cable::unplug(&self.standing.route, endpoint)?;
        }
        self.store.put_membership(&before)?;
        if before.ports.is_empty() {
            self.give_ports_back(&next.member.id);
        }
        self.forget(endpoint, before.clone());
        self.settle_endpoints(next, Some(&endpoint.id), WAIT);
        if next.is_plugged() {
            cable::enter(&before.member.netns)?;
            cable::configure(&before, None)?;
            self.lead_out(Some(next), &mut before)?;
        }
        Ok(())
    }

    pub(super) fn detach(self: &Arc<Self>, container: &ContainerId, reference: &str) -> Result<()> {
        let (before, mut next) = {
            let state = self.state.lock();
            let net = state.find(reference)?;
            let network = &net.definition.id;
            let before = state.members.get(container).cloned();
            match (before, state.without(container, network)) {
                (Some(before), Some(next)) => (before, next),
                (before, _) => {
                    return Err(Error::NotConnected {
                        container: before
                            .map_or_else(|| container.to_string(), |known| known.member.name),
                        network: net.name().to_owned(),
                    });
                }
            }
        };
        if next.endpoints.is_empty() {
            return self.let_go(&before, true, WAIT);
        }
        let gone = before
            .endpoints
            .iter()
            .find(|endpoint| !next.endpoints.contains(endpoint));
        let Some(gone) = gone else {
            return Ok(());
        };
        self.standing.publish(Some(&before), &next)?;
        if gone.is_cabled() {
            cable::unplug(&self.standing.route, gone)?;
        }
        self.store.put_membership(&next)?;
        self.forget(gone, next.clone());
        self.settle_endpoints(&before, Some(&gone.id), WAIT);
        cable::enter(&next.member.netns)?;
        cable::configure(&next, None)?;
        if next.is_plugged() {
            self.lead_out(Some(&before), &mut next)?;
            self.store.put_membership(&next)?;
            self.remember(next);
        }
        Ok(())
    }

    pub(super) fn release(self: &Arc<Self>, container: &ContainerId, wait: Duration) -> Result<()> {
        let known = self.state.lock().members.get(container).cloned();
        match known {
            Some(membership) => self.let_go(&membership, false, wait),
            None => Ok(()),
        }
    }

    /// Takes back everything that a container has. Every step runs whatever became of the others;
    /// but what a failed step left in use is not given to anybody else.
    /// Plugins are waited for so long, and asked behind from then on.
    fn let_go(
        self: &Arc<Self>,
        membership: &Membership,
        unplug: bool,
        wait: Duration,
    ) -> Result<()> {
        let container = &membership.member.id;
        self.resolving.directory.remove(container);
        // Its sockets would keep the namespace.
        self.resolvers.lock().remove(container);
        let mut failures = Vec::new();
        failures.extend(self.standing.withdraw(membership).err());
        for endpoint in membership.endpoints.iter().filter(|e| e.is_cabled()) {
            let route = &self.standing.route;
            let gone = match unplug {
                true => cable::unplug(route, endpoint),
                false => cable::cut(route, endpoint),
            };
            failures.extend(gone.err());
        }
        if failures.is_empty() {
            failures.extend(self.store.remove_membership(container).err());
        }
        if failures.is_empty() {
            self.give_ports_back(container);
            let mut state = self.state.lock();
            state.members.remove(container);
            for net in state.networks.values_mut() {
                net.release(container);
            }
            drop(state);
            self.settle_endpoints(membership, None, wait);
            return Ok(());
        }
        Err(failures.remove(0))
    }

    fn give_ports_back(&self, container: &ContainerId) {
        // The sockets before the numbers: who is given one next binds it.
        let held = self.held.lock().remove(container);
        // Not under the lock: who forwards is asked to stop.
        drop(held);
        self.state.lock().ports.release(container);
    }

    /// Gives an endpoint's addresses back; `rest` are the container's networks from now on.
    fn forget(&self, endpoint: &Endpoint, rest: Membership) {
        if let Some(net) = self.state.lock().networks.get_mut(&endpoint.network) {
            net.release(&rest.member.id);
        }
        if !self.resolves(&rest) {
            self.resolvers.lock().remove(&rest.member.id);
        }
        self.remember(rest);
    }

    /// Takes up the containers of an earlier daemon: addresses, ports, bridges and the table.
    pub(super) fn resume(&self) -> Result<()> {
        let memberships = self.store.memberships()?;
        if memberships.is_empty() {
            return Ok(());
        }
        let links = (self.standing.route.lock().links())
            .map_err(|source| crate::bridge::device::refused("list", "interfaces", source))?;
        let cables = links.into_iter().map(|link| link.name).collect();
        let mut table = HashMap::new();
        let mut resolving = Vec::new();
        for membership in memberships {
            let membership = self.restore(membership, &cables);
            let owner = Owner::Container(membership.member.id.clone());
            table.insert(owner, entries(&membership));
            self.hold_again(&membership);
            if self.resolves(&membership) {
                resolving.push(membership);
            }
        }
        let nets: Vec<Description> = {
            let state = self.state.lock();
            let used = |net: &&Net| state.on(&net.definition.id).next().is_some();
            let bridges = state.networks.values().filter(used).map(Description::of);
            bridges.filter(|net| !net.interface.is_empty()).collect()
        };
        for net in &nets {
            table.insert(Owner::Network(net.id.clone()), net.entries.clone());
        }
        self.standing.install(table)?;
        for net in &nets {
            if let Err(error) = self.standing.bridge(net) {
                tracing::error!(
                    ?error,
                    "the network of running containers cannot be restored"
                );
            }
        }
        resolving.iter().for_each(|it| self.serve_names_again(it));
        Ok(())
    }

    /// An endpoint whose cable was never made, because the daemon died meanwhile, is none.
    fn restore(
        &self,
        mut membership: Membership,
        cables: &std::collections::HashSet<String>,
    ) -> Membership {
        let mut state = self.state.lock();
        membership.endpoints.retain(|endpoint| {
            let whole = !endpoint.is_cabled() || cables.contains(&cable::host_name(endpoint));
            whole && state.networks.contains_key(&endpoint.network)
        });
        membership.gateway = super::state::gateway(&membership.endpoints);
        for endpoint in &membership.endpoints {
            if let Some(net) = state.networks.get_mut(&endpoint.network) {
                net.restore(&membership.member.id, endpoint);
            }
        }
        for port in &membership.ports {
            state.ports.restore(&membership.member.id, &port.mapping());
        }
        drop(state);
        self.remember(membership.clone());
        membership
    }

    /// Takes the host's ports again. One that somebody else has taken meanwhile still leads to the
    /// container.
    fn hold_again(&self, membership: &Membership) {
        let held = membership.ports.iter().filter_map(|port| {
            self.claims
                .take(port.protocol, port.host_ip, port.host_port)
                .inspect_err(|error| tracing::warn!(%error, "a published port is in use"))
                .ok()
                .flatten()
        });
        let held = held.collect();
        self.held.lock().insert(membership.member.id.clone(), held);
    }

    pub(super) fn heal(&self) -> Result<bool> {
        let nets: Vec<Description> = {
            let state = self.state.lock();
            state.networks.values().map(Description::of).collect()
        };
        self.standing.heal(&nets, |network| {
            let state = self.state.lock();
            let isolated = nets.iter().any(|net| net.id == *network && net.isolated);
            state
                .on(network)
                .map(|(_, endpoint)| (cable::host_name(endpoint), isolated))
                .collect()
        })
    }
}
