//! Which of the host's ports lead to which pod. Memory only, rebuilt from the records.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use berth_names::SandboxId;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use crate::error::{Error, Result};
use crate::pod::{PortMapping, Protocol};

#[derive(Debug, Default)]
pub(crate) struct Ports {
    taken: HashMap<(Protocol, u16), Vec<Holder>>,
}

#[derive(Debug)]
struct Holder {
    /// `None`: all addresses.
    ip: Option<IpAddr>,
    sandbox: SandboxId,
}

impl Ports {
    /// Reserves all of `mappings` or none.
    pub(crate) fn take(&mut self, sandbox: &SandboxId, mappings: &[PortMapping]) -> Result<()> {
        for mapping in mappings {
            if let Some(holder) = self.conflict(mapping) {
                let taken = Error::PortTaken {
                    port: mapping.host_port,
                    protocol: mapping.protocol,
                    holder: holder.clone(),
                };
                self.release(sandbox);
                return Err(taken);
            }
            self.restore(sandbox, mapping);
        }
        Ok(())
    }

    /// Notes a mapping that already stands.
    pub(crate) fn restore(&mut self, sandbox: &SandboxId, mapping: &PortMapping) {
        self.taken
            .entry((mapping.protocol, mapping.host_port))
            .or_default()
            .push(Holder {
                ip: mapping.bound_ip(),
                sandbox: sandbox.clone(),
            });
    }

    pub(crate) fn release(&mut self, sandbox: &SandboxId) {
        self.taken.retain(|_, holders| {
            holders.retain(|holder| holder.sandbox != *sandbox);
            !holders.is_empty()
        });
    }

    fn conflict(&self, mapping: &PortMapping) -> Option<&SandboxId> {
        let wanted = mapping.bound_ip();
        self.taken
            .get(&(mapping.protocol, mapping.host_port))?
            .iter()
            .find(|holder| match (holder.ip, wanted) {
                (Some(held), Some(wanted)) => held == wanted,
                _ => true,
            })
            .map(|holder| &holder.sandbox)
    }
}

/// Refuses a port on which a process of the host listens: the mapping would cut it off.
///
/// Looks from the calling thread's network namespace. SCTP is not looked at: opening such a socket
/// would load a kernel module.
pub(crate) fn check_host(mapping: &PortMapping) -> Result<()> {
    let kind = match mapping.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp => return Ok(()),
    };
    let any: &[IpAddr] = &[
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let bound = mapping.bound_ip();
    for address in bound.as_ref().map_or(any, std::slice::from_ref) {
        // Other failures mean that nobody listens there: no IPv6, or an address that the host will
        // only have later.
        if let Err(Errno::ADDRINUSE) = try_bind(kind, SocketAddr::new(*address, mapping.host_port))
        {
            return Err(Error::PortInUse {
                port: mapping.host_port,
                protocol: mapping.protocol,
                address: *address,
                source: Errno::ADDRINUSE.into(),
            });
        }
    }
    Ok(())
}

fn try_bind(kind: SocketType, address: SocketAddr) -> rustix::io::Result<()> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket(family, kind, None)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if kind == SocketType::STREAM {
        // Connections in TIME_WAIT are no listener.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)
}

#[cfg(test)]
mod tests {
    use super::*;

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
