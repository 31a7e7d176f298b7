//! Choosing the host's ports for what a container publishes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use berth_names::ContainerId;
use parking_lot::Mutex;

use super::claims::{Claim, Claims};
use super::member::{Endpoint, HostPort, Member, PortRequest, PublishedPort};
use super::state::State;
use crate::error::{Error, Result};
use crate::pod::PortMapping;

/// Where the kernel's own say is not to be had (`ip_local_port_range` in ip-sysctl.rst).
const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

/// Ports that were found, and what keeps others off them.
#[derive(Debug, Default)]
pub(super) struct Allocated {
    pub ports: Vec<PublishedPort>,
    pub held: Vec<Claim>,
}

/// The ports of the host's that programs are given unasked.
pub(super) fn ephemeral() -> RangeInclusive<u16> {
    let read = || {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut numbers = text.split_whitespace().map(str::parse::<u16>);
        let range = numbers.next()?.ok()?..=numbers.next()?.ok()?;
        (!range.is_empty()).then_some(range)
    };
    read().unwrap_or(EPHEMERAL)
}

/// Finds a port for each of a container's, all or none; they are the container's in `state` from
/// then on. Binds sockets: must run on a thread in the host's namespace.
pub(super) fn allocate(
    state: &Mutex<State>,
    claims: &Claims,
    member: &Member,
    gateway: &Endpoint,
    host_binding: Option<Ipv4Addr>,
) -> Result<Allocated> {
    let mut allocated = Allocated::default();
    for request in &member.ports {
        let found = addresses(request, gateway, host_binding)
            .and_then(|addresses| one(state, claims, member, request, &addresses));
        match found {
            Ok(one) => {
                allocated.ports.extend(one.ports);
                allocated.held.extend(one.held);
            }
            Err(error) => {
                state.lock().ports.release(&member.id);
                return Err(error);
            }
        }
    }
    Ok(allocated)
}

/// The host's addresses that a port is published on.
fn addresses(
    request: &PortRequest,
    gateway: &Endpoint,
    host_binding: Option<Ipv4Addr>,
) -> Result<Vec<IpAddr>> {
    let served = |address: &IpAddr| match address.is_ipv4() {
        true => gateway.ipv4().is_some(),
        false => gateway.ipv6().is_some(),
    };
    let Some(address) = request.host_ip else {
        let v4 = host_binding.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let both = [IpAddr::V4(v4), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        return Ok(both.into_iter().filter(served).collect());
    };
    if served(&address) {
        return Ok(vec![address]);
    }
    Err(Error::EndpointInvalid {
        network: gateway.network_name.clone(),
        reason: format!(
            "port {}/{} cannot be published on {address}: the network has no addresses of its family",
            request.container_port, request.protocol
        ),
    })
}

/// The first port of those wanted that is free on all of the addresses.
fn one(
    state: &Mutex<State>,
    claims: &Claims,
    member: &Member,
    request: &PortRequest,
    addresses: &[IpAddr],
) -> Result<Allocated> {
    let range = match &request.host_port {
        HostPort::Among(range) => range.clone(),
        HostPort::Any => ephemeral(),
    };
    let (first, last) = (*range.start(), *range.end());
    let count = u32::from(last.saturating_sub(first)) + 1;
    let start = match request.host_port {
        HostPort::Among(_) => first,
        HostPort::Any => state.lock().next_port.clamp(first, last),
    };
    let mut refusal = None;
    for step in 0..count {
        let offset = (u32::from(start - first) + step) % count;
        let port = first + offset as u16;
        let mappings: Vec<_> = addresses
            .iter()
            .map(|address| PortMapping {
                protocol: request.protocol,
                container_port: request.container_port,
                host_port: port,
                host_ip: Some(*address),
            })
            .collect();
        match take(state, claims, &member.id, &mappings) {
            Ok(held) => {
                if request.host_port == HostPort::Any {
                    state.lock().next_port = port.checked_add(1).unwrap_or(first);
                }
                return Ok(published(mappings, held, claims.are_forwards()));
            }
            Err(error) => refusal = Some(error),
        }
    }
    match refusal {
        Some(error) if count == 1 => Err(error),
        _ => Err(Error::PortsExhausted {
            address: addresses
                .first()
                .copied()
                .unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            first,
            last,
        }),
    }
}

fn take(
    state: &Mutex<State>,
    claims: &Claims,
    container: &ContainerId,
    mappings: &[PortMapping],
) -> Result<Vec<Claim>> {
    {
        let mut state = state.lock();
        for mapping in mappings {
            if let Some(holder) = state.ports.conflict(mapping) {
                return Err(Error::PortAllocated {
                    address: mapping.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
                    port: mapping.host_port,
                    protocol: mapping.protocol,
                    holder: holder.clone(),
                });
            }
        }
        for mapping in mappings {
            state.ports.restore(container, mapping);
        }
    }
    let held: Result<Vec<_>> = mappings
        .iter()
        .filter_map(|mapping| {
            let claim = claims.take(mapping.protocol, mapping.host_ip?, mapping.host_port);
            claim.transpose()
        })
        .collect();
    if held.is_err() {
        let mut state = state.lock();
        for mapping in mappings {
            state.ports.give_back(container, mapping);
        }
    }
    held
}

fn published(mappings: Vec<PortMapping>, held: Vec<Claim>, forwarded: bool) -> Allocated {
    let ports = mappings.into_iter().filter_map(|mapping| {
        Some(PublishedPort {
            protocol: mapping.protocol,
            container_port: mapping.container_port,
            host_ip: mapping.host_ip?,
            host_port: mapping.host_port,
            forwarded,
        })
    });
    Allocated {
        ports: ports.collect(),
        held,
    }
}
