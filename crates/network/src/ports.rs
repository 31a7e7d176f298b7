//! Which of the host's ports lead to whom. Memory only, rebuilt from the records.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::error::{Error, Result};
use crate::pod::{PortMapping, Protocol};

#[derive(Debug)]
pub(crate) struct Ports<O> {
    taken: HashMap<(Protocol, u16), Vec<Holder<O>>>,
}

#[derive(Debug)]
struct Holder<O> {
    /// As in `PortMapping::host_ip`.
    ip: Option<IpAddr>,
    owner: O,
}

/// A mapping that somebody else's is in the way of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Taken<O> {
    pub mapping: PortMapping,
    pub holder: O,
}

impl<O> Default for Ports<O> {
    fn default() -> Self {
        Self {
            taken: HashMap::new(),
        }
    }
}

impl<O: Clone + PartialEq> Ports<O> {
    /// Reserves all of `mappings` or none.
    pub(crate) fn take(
        &mut self,
        owner: &O,
        mappings: &[PortMapping],
    ) -> std::result::Result<(), Taken<O>> {
        for mapping in mappings {
            if let Some(holder) = self.conflict(mapping) {
                let taken = Taken {
                    mapping: mapping.clone(),
                    holder: holder.clone(),
                };
                self.release(owner);
                return Err(taken);
            }
            self.restore(owner, mapping);
        }
        Ok(())
    }

    /// Notes a mapping that already stands.
    pub(crate) fn restore(&mut self, owner: &O, mapping: &PortMapping) {
        self.taken
            .entry((mapping.protocol, mapping.host_port))
            .or_default()
            .push(Holder {
                ip: mapping.host_ip,
                owner: owner.clone(),
            });
    }

    pub(crate) fn release(&mut self, owner: &O) {
        self.taken.retain(|_, holders| {
            holders.retain(|holder| holder.owner != *owner);
            !holders.is_empty()
        });
    }

    /// Gives one mapping of an owner back.
    pub(crate) fn give_back(&mut self, owner: &O, mapping: &PortMapping) {
        let key = (mapping.protocol, mapping.host_port);
        if let Some(holders) = self.taken.get_mut(&key) {
            holders.retain(|holder| holder.owner != *owner || holder.ip != mapping.host_ip);
            if holders.is_empty() {
                self.taken.remove(&key);
            }
        }
    }

    pub(crate) fn conflict(&self, mapping: &PortMapping) -> Option<&O> {
        self.taken
            .get(&(mapping.protocol, mapping.host_port))?
            .iter()
            .find(|holder| overlap(holder.ip, mapping.host_ip))
            .map(|holder| &holder.owner)
    }
}

/// Whether two host addresses of one port have an address in common. `None` is every address,
/// an unspecified one every address of its family.
fn overlap(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return true;
    };
    one.is_ipv4() == other.is_ipv4()
        && (one == other || one.is_unspecified() || other.is_unspecified())
}

/// Refuses a port on which a process of the host listens: the mapping would cut it off.
///
/// Looks from the calling thread's network namespace.
pub(crate) fn check_host(mapping: &PortMapping) -> Result<()> {
    let any: &[IpAddr] = &[
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let wanted = mapping.host_ip.as_ref();
    for address in wanted.map_or(any, std::slice::from_ref) {
        hold(mapping.protocol, *address, mapping.host_port)?;
    }
    Ok(())
}

/// Takes a port of the host for as long as the socket lives: a process that binds it meanwhile is
/// told so, instead of being cut off. Nothing is ever received by it: what arrives is translated
/// before. `None` where the host has no such address (yet), and for SCTP: such a socket would load a
/// kernel module.
pub(crate) fn hold(protocol: Protocol, address: IpAddr, port: u16) -> Result<Option<OwnedFd>> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp => return Ok(None),
    };
    let target = SocketAddr::new(address, port);
    let bound = match bound(kind, target, false) {
        // Connections in TIME_WAIT are no listener. Only then: two sockets that both let others
        // reuse their address would not be in each other's way.
        Err(Errno::ADDRINUSE) if kind == SocketType::STREAM => bound(kind, target, true),
        other => other,
    };
    match bound {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::ADDRINUSE) => Err(Error::PortInUse {
            port,
            protocol,
            address,
            source: Errno::ADDRINUSE.into(),
        }),
        // Nobody listens there: no IPv6, or an address that the host will only have later.
        Err(_) => Ok(None),
    }
}

fn bound(kind: SocketType, address: SocketAddr, reuse: bool) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if reuse {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    if reuse {
        sockopt::set_socket_reuseaddr(&socket, false)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_names::SandboxId;

    fn mapping(protocol: Protocol, host_port: u16, ip: Option<&str>) -> PortMapping {
        let host_ip = ip.map(|ip| ip.parse().unwrap());
        PortMapping {
            protocol,
            container_port: 80,
            host_port,
            host_ip,
        }
    }

    #[test]
    fn a_port_belongs_to_one_pod_per_protocol_and_address() {
        let (first, second) = (
            SandboxId::from_random([1; 32]),
            SandboxId::from_random([2; 32]),
        );
        for (held, wanted, conflict) in [
            ((Protocol::Tcp, None), (Protocol::Tcp, None), true),
            ((Protocol::Tcp, None), (Protocol::Udp, None), false),
            (
                (Protocol::Tcp, None),
                (Protocol::Tcp, Some("127.0.0.1")),
                true,
            ),
            (
                (Protocol::Tcp, Some("127.0.0.1")),
                (Protocol::Tcp, Some("0.0.0.0")),
                true,
            ),
            ((Protocol::Tcp, Some("::")), (Protocol::Tcp, None), true),
            (
                (Protocol::Tcp, Some("::")),
                (Protocol::Tcp, Some("0.0.0.0")),
                false,
            ),
            (
                (Protocol::Sctp, Some("10.0.0.1")),
                (Protocol::Sctp, Some("10.0.0.2")),
                false,
            ),
            (
                (Protocol::Udp, Some("10.0.0.1")),
                (Protocol::Udp, Some("10.0.0.1")),
                true,
            ),
        ] {
            let mut ports = Ports::default();
            ports
                .take(&first, &[mapping(held.0, 8080, held.1)])
                .unwrap();
            let got = ports.take(&second, &[mapping(wanted.0, 8080, wanted.1)]);
            assert_eq!(got.is_err(), conflict, "{held:?} then {wanted:?}");
            ports.release(&first);
            ports.release(&second);
            assert!(ports.taken.is_empty());
        }
    }

    #[test]
    fn a_refused_pod_keeps_none_of_its_ports() {
        let (first, second) = (
            SandboxId::from_random([1; 32]),
            SandboxId::from_random([2; 32]),
        );
        let mut ports = Ports::default();
        ports
            .take(&first, &[mapping(Protocol::Tcp, 2, None)])
            .unwrap();
        let wanted = [1, 2].map(|port| mapping(Protocol::Tcp, port, None));
        assert!(ports.take(&second, &wanted).is_err());
        ports
            .take(&first, &[mapping(Protocol::Tcp, 1, None)])
            .unwrap();
    }

    #[test]
    fn a_port_on_which_the_host_listens_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for (protocol, ip, refused) in [
            (Protocol::Tcp, Some("127.0.0.1"), true),
            (Protocol::Tcp, None, true),
            (Protocol::Tcp, Some("127.0.0.2"), false),
            (Protocol::Udp, Some("127.0.0.1"), false),
        ] {
            let got = check_host(&mapping(protocol, port, ip));
            assert_eq!(got.is_err(), refused, "{protocol} {ip:?}");
        }
    }
}
