//! A container's cable: a veth whose one end is a port of the network's bridge. And what is set up
//! inside the container's namespace, on a thread that goes in there and ends with it.

use std::os::fd::AsFd;
use std::path::Path;

use parking_lot::Mutex;

use super::member::{Endpoint, Membership};
use super::standing::Bridge;
use super::state::way_out;
use crate::bridge::device::{refused, set, settle_ipv6};
use crate::error::{Error, Result};
use crate::netlink::{Refusal, Route, VethPlan};
use crate::threads;

/// Loopback's index in every network namespace.
const LOOPBACK: u32 = 1;

/// The host's end of an endpoint's cable; at most 15 bytes, as an interface's name must be.
pub(super) fn host_name(endpoint: &Endpoint) -> String {
    format!("veth{}", &endpoint.id.as_str()[..10])
}

/// Makes the cable; its end in the container is still down.
pub(super) fn plug(
    host: &Mutex<Route>,
    bridge: Bridge,
    isolated: bool,
    endpoint: &Endpoint,
    netns: &Path,
) -> Result<()> {
    let name = host_name(endpoint);
    let namespace = threads::open_netns(netns)?;
    let plan = VethPlan {
        host_name: &name,
        bridge_index: bridge.index,
        pod_name: &endpoint.interface,
        pod_netns: namespace.as_fd(),
        pod_mac: endpoint.mac.map_or([0; 6], |mac| mac.0),
        mtu: bridge.mtu,
    };
    let mut host = host.lock();
    host.create_veth(&plan)
        .and_then(|()| match isolated {
            true => host.set_isolated(&name),
            false => host.set_hairpin(&name),
        })
        .map_err(|source| {
            refused(
                "create the container's interface",
                &endpoint.interface,
                source,
            )
        })
}

/// Removes the cable, which takes the kernel tens of milliseconds; its absence is success.
pub(super) fn unplug(host: &Mutex<Route>, endpoint: &Endpoint) -> Result<()> {
    let name = host_name(endpoint);
    host.lock()
        .delete_link(&name)
        .map_err(|source| refused("remove the container's interface", &name, source))
}

/// Takes the cable out of use at once; it goes with the container's namespace.
pub(super) fn cut(host: &Mutex<Route>, endpoint: &Endpoint) -> Result<()> {
    let name = host_name(endpoint);
    host.lock()
        .set_down(&name)
        .map_err(|source| refused("take the container's interface down", &name, source))
}

/// Leaves the calling thread in the container's namespace: only for a thread that ends soon.
pub(super) fn enter(netns: &Path) -> Result<()> {
    threads::enter_netns(&threads::open_netns(netns)?, netns)
}

/// Sets a new endpoint up, and the default routes of all, from inside.
pub(super) fn configure(membership: &Membership, fresh: Option<&Endpoint>) -> Result<()> {
    let mut route = Route::open().map_err(|source| Error::Socket {
        protocol: "route",
        source,
    })?;
    if let Some(endpoint) = fresh {
        bring_up(&mut route, endpoint)?;
    }
    for v4 in [true, false] {
        let Some(endpoint) = way_out(&membership.endpoints, v4) else {
            continue;
        };
        let gateway = (endpoint.addresses.iter())
            .filter(|a| a.address.is_ipv4() == v4)
            .find_map(|a| a.gateway);
        if let Some(gateway) = gateway {
            let index = index(&mut route, endpoint)?;
            route
                .add_default_route(index, gateway)
                .map_err(failed("give the container its default route", endpoint))?;
        }
    }
    Ok(())
}

fn bring_up(route: &mut Route, endpoint: &Endpoint) -> Result<()> {
    let index = index(route, endpoint)?;
    let name = endpoint.interface.as_str();
    settle_ipv6(name);
    // An interface without an address of IPv6 has none at all, not even a link's own: nobody may
    // reach by it what the network does not have. Hosts without IPv6 have no such file.
    let without = if endpoint.ipv6().is_some() { "0" } else { "1" };
    let _ = set(&format!("net/ipv6/conf/{name}/disable_ipv6"), without);
    for address in &endpoint.addresses {
        route
            .add_address(index, address.address, address.prefix)
            .map_err(failed("give the container its address", endpoint))?;
    }
    route
        .set_up(LOOPBACK)
        .and_then(|()| route.set_up(index))
        .map_err(failed("bring the container's interfaces up", endpoint))?;
    let plug = endpoint.plug.iter().flat_map(|plug| &plug.routes);
    // Those on the link first: others' next hops may be there.
    let (far, near): (Vec<_>, Vec<_>) = plug.partition(|way| way.next_hop.is_some());
    for way in near.into_iter().chain(far) {
        route
            .add_route(index, Some(way.destination), way.next_hop)
            .map_err(failed(
                "give the container a route of its plugin's",
                endpoint,
            ))?;
    }
    Ok(())
}

fn index(route: &mut Route, endpoint: &Endpoint) -> Result<u32> {
    let operation = "find the container's interface";
    let link = route
        .link(&endpoint.interface)
        .map_err(failed(operation, endpoint))?;
    link.map(|link| link.index)
        .ok_or_else(|| failed(operation, endpoint)(rustix::io::Errno::NODEV.into()))
}

fn failed(operation: &'static str, endpoint: &Endpoint) -> impl Fn(Refusal) -> Error {
    let object = format!("{} on {}", endpoint.interface, endpoint.network_name);
    move |source| refused(operation, &object, source)
}
