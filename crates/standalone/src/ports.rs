//! Which ports of the host lead to a container.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use berth_lifecycle::request::{PortMapping, Protocol};

use crate::config::{Config, HostConfig, PortBinding};
use crate::error::{Error, Result};

/// Decides what is published, with ports that are free at this moment where none were named. By
/// `port/protocol`.
pub fn choose(
    config: &Config,
    host: &HostConfig,
    exposed: impl Iterator<Item = String>,
) -> Result<BTreeMap<String, Vec<PortBinding>>> {
    let mut wanted = host.port_bindings.clone();
    if host.publish_all_ports {
        let all = exposed.chain(config.exposed_ports.keys().cloned());
        for port in all {
            let bindings = wanted.entry(with_protocol(&port)).or_default();
            if bindings.is_empty() {
                bindings.push(PortBinding::default());
            }
        }
    }
    let mut chosen = BTreeMap::new();
    for (port, bindings) in wanted {
        let (_, protocol) = parse(&port)?;
        let bindings = bindings.iter().map(|binding| settle(binding, protocol));
        chosen.insert(with_protocol(&port), bindings.collect::<Result<Vec<_>>>()?);
    }
    Ok(chosen)
}

pub fn mappings(chosen: &BTreeMap<String, Vec<PortBinding>>) -> Result<Vec<PortMapping>> {
    let mut mappings = Vec::new();
    for (port, bindings) in chosen {
        let (container_port, protocol) = parse(port)?;
        for binding in bindings {
            let host_port = binding.host_port.parse();
            mappings.push(PortMapping {
                protocol,
                container_port,
                host_port: host_port.map_err(|_| bad_port(&binding.host_port))?,
                host_ip: match binding.host_ip.as_str() {
                    "0.0.0.0" | "::" => String::new(),
                    address => address.to_owned(),
                },
            });
        }
    }
    Ok(mappings)
}

fn with_protocol(port: &str) -> String {
    match port.contains('/') {
        true => port.to_owned(),
        false => format!("{port}/tcp"),
    }
}

/// `port` or `port/protocol`.
pub fn parse(port: &str) -> Result<(u16, Protocol)> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(Error::invalid(format!("invalid protocol: {other}"))),
    };
    let number = number.parse().ok().filter(|number| *number != 0);
    Ok((number.ok_or_else(|| bad_port(port))?, protocol))
}

fn bad_port(port: &str) -> Error {
    Error::invalid(format!("invalid port specification: {port:?}"))
}

fn settle(binding: &PortBinding, protocol: Protocol) -> Result<PortBinding> {
    let address: IpAddr = match binding.host_ip.as_str() {
        "" => Ipv4Addr::UNSPECIFIED.into(),
        text => text
            .parse()
            .map_err(|_| Error::invalid(format!("invalid host IP: {text:?}")))?,
    };
    let (first, last) = range(&binding.host_port)?;
    let host_port = match (first, last) {
        (0, _) => free(address, 0, protocol).ok_or_else(|| no_port(first, last))?,
        (first, last) if first == last => first,
        (first, last) => (first..=last)
            .find_map(|port| free(address, port, protocol))
            .ok_or_else(|| no_port(first, last))?,
    };
    Ok(PortBinding {
        host_ip: binding.host_ip.clone(),
        host_port: host_port.to_string(),
    })
}

fn no_port(first: u16, last: u16) -> Error {
    Error::Conflict(format!("all ports of {first}-{last} are allocated"))
}

/// `port`, `first-last`, or nothing.
fn range(text: &str) -> Result<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().map_err(|_| bad_port(text));
    match text.split_once('-') {
        _ if text.is_empty() => Ok((0, 0)),
        None => number(text).map(|port| (port, port)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            match first > last || first == 0 {
                true => Err(bad_port(text)),
                false => Ok((first, last)),
            }
        }
    }
}

/// The port if nobody listens on it; one of the kernel's choice for 0.
fn free(address: IpAddr, port: u16, protocol: Protocol) -> Option<u16> {
    let at = SocketAddr::from((address, port));
    let bound = match protocol {
        Protocol::Udp => UdpSocket::bind(at).and_then(|socket| socket.local_addr()),
        Protocol::Tcp | Protocol::Sctp => {
            TcpListener::bind(at).and_then(|socket| socket.local_addr())
        }
    };
    bound.ok().map(|bound| bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(port: &str, host_port: &str) -> HostConfig {
        let binding = PortBinding {
            host_ip: "127.0.0.1".into(),
            host_port: host_port.into(),
        };
        HostConfig {
            port_bindings: [(port.to_owned(), vec![binding])].into(),
            ..HostConfig::default()
        }
    }

    fn chosen(port: &str, host_port: &str) -> Result<Vec<PortMapping>> {
        let chosen = choose(
            &Config::default(),
            &host(port, host_port),
            std::iter::empty(),
        )?;
        mappings(&chosen)
    }

    #[test]
    fn a_named_port_stays_and_none_becomes_one_that_is_free() {
        let named = chosen("80/tcp", "8800").unwrap();
        assert_eq!((named[0].container_port, named[0].host_port), (80, 8800));
        assert_ne!(chosen("80", "").unwrap()[0].host_port, 0);
    }

    #[test]
    fn of_a_range_the_first_free_port_is_taken() {
        let busy = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = busy.local_addr().unwrap().port();
        let Some(next) = port.checked_add(20) else {
            return;
        };
        let found = chosen("80/tcp", &format!("{port}-{next}")).unwrap();
        assert!(found[0].host_port > port);
    }

    #[test]
    fn nonsense_is_refused() {
        for (port, host_port) in [
            ("0/tcp", "1"),
            ("80/xyz", "1"),
            ("80", "9-8"),
            ("80", "x"),
            ("80", "70000"),
        ] {
            assert!(chosen(port, host_port).is_err(), "{port} {host_port}");
        }
    }
}
