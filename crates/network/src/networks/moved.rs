//! An interface that a plugin has made: into a container, and out of it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_names::EndpointId;
use parking_lot::Mutex;

use super::cable::enter;
use super::member::MacAddress;
use crate::bridge::device::refused;
use crate::error::{Error, Result};
use crate::netlink::{Move, Route};
use crate::threads;

/// Moves the host's interface `outside` into a container, where it has another name; says which
/// hardware address it has. `None`: the host has none of that name.
pub(super) fn into(
    host: &Mutex<Route>,
    netns: &Path,
    (outside, inside): (&str, &str),
    mac: Option<MacAddress>,
    endpoint: &EndpointId,
) -> Result<Option<MacAddress>> {
    let refused = |source| refused("move an interface into a container", outside, source);
    let namespace = threads::open_netns(netns)?;
    let mut host = host.lock();
    let Some(link) = host.link(outside).map_err(refused)? else {
        return Ok(None);
    };
    let plan = Move {
        to: namespace.as_fd(),
        name: inside,
        mac: mac.map(|mac| mac.0),
        alias: endpoint.as_str(),
    };
    host.move_link(link.index, &plan).map_err(refused)?;
    Ok(Some(mac.unwrap_or(MacAddress(link.mac))))
}

/// The way back, down and under its old name: its plugin finds it as it was. One that is not there,
/// or whose container is gone, is no failure. It is known by the endpoint that is noted on it: names
/// come and go.
pub(super) fn out(host: OwnedFd, netns: &Path, outside: &str, endpoint: &EndpointId) -> Result<()> {
    if !netns.exists() {
        return Ok(());
    }
    let (netns, endpoint) = (netns.to_owned(), endpoint.clone());
    let outside = outside.to_owned();
    threads::run("berth-unplug", move || {
        enter(&netns)?;
        let mut route = Route::open().map_err(|source| Error::Socket {
            protocol: "route",
            source,
        })?;
        let refused = |source| refused("take an interface out of a container", &outside, source);
        let mut links = route.links().map_err(refused)?.into_iter();
        let Some(link) = links.find(|link| link.alias == endpoint.as_str()) else {
            return Ok(());
        };
        route.set_down(&link.name).map_err(refused)?;
        let plan = Move {
            to: host.as_fd(),
            name: &outside,
            mac: None,
            alias: "",
        };
        route.move_link(link.index, &plan).map_err(refused)
    })
}
