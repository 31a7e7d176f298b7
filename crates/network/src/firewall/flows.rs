//! UDP flows that outlive a change of the port maps. A map is asked only for a flow's first packet;
//! a client that keeps its socket would go on being sent to where nobody is, for as long as it
//! keeps asking. TCP notices by itself.

use std::collections::HashSet;
use std::net::IpAddr;

use super::table::Element;
use crate::netlink::wire::{self, Message};
use crate::netlink::{Channel, Refusal};
use crate::pod::Protocol;

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
/// Destination address, IPv4 and IPv6.
const IP_DESTINATIONS: [u16; 2] = [2, 4];
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_DESTINATION: u16 = 3;

/// Whether any of `elements` needs flows to be forgotten.
pub(crate) fn concerned(elements: &[Element]) -> bool {
    elements
        .iter()
        .any(|element| element.protocol == Protocol::Udp)
}

/// Makes the kernel forget the UDP flows that were sent to the host ports of `elements`. An element
/// for all addresses means the `local` ones; a flow that only passes through is left alone.
///
/// Lists all flows of the host: milliseconds on a busy one.
pub(super) fn forget(
    channel: &mut Channel,
    elements: &[Element],
    local: &HashSet<IpAddr>,
) -> Result<(), Refusal> {
    let mut found = Vec::new();
    let list = Message::new(SUBSYSTEM | GET, libc::NLM_F_DUMP as u16, &[0; 4]);
    channel.list(list, |payload| {
        found.extend(deletion(payload, |address, port| {
            elements.iter().any(|element| {
                element.protocol == Protocol::Udp
                    && element.host_port == port
                    && element
                        .host_ip
                        .map_or(local.contains(&address), |ip| ip == address)
            })
        }));
    })?;
    for request in found {
        // A flow may end by itself meanwhile.
        match channel.ask(request) {
            Err(refusal) if refusal.errno() != rustix::io::Errno::NOENT => return Err(refusal),
            _ => {}
        }
    }
    Ok(())
}

/// The request that deletes the listed flow, if it is one of UDP that `wanted` names.
fn deletion(payload: &[u8], wanted: impl Fn(IpAddr, u16) -> bool) -> Option<Message> {
    let header = payload.get(..4)?;
    let find = |bytes, kind| {
        wire::attributes(bytes)
            .find(|(k, _)| *k == kind)
            .map(|(_, v)| v)
    };
    let flow = &payload[4..];
    let tuple = find(flow, TUPLE_ORIGINAL)?;
    let protocol = find(tuple, TUPLE_PROTOCOL)?;
    if find(protocol, PROTOCOL_NUMBER)?.first() != Some(&Protocol::Udp.number()) {
        return None;
    }
    let port = find(protocol, PROTOCOL_DESTINATION)?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    let addresses = find(tuple, TUPLE_IP)?;
    let address = IP_DESTINATIONS
        .iter()
        .find_map(|kind| find(addresses, *kind))?;
    let address = match address.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    if !wanted(address, port) {
        return None;
    }
    let mut message = Message::new(SUBSYSTEM | DELETE, 0, header);
    message.nest_behind(TUPLE_ORIGINAL, tuple, |_| {});
    if let Some(zone) = find(flow, ZONE) {
        message.bytes(ZONE, zone);
    }
    Some(message)
}
