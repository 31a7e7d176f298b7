//! Which ports of the host lead to a container.

use std::net::IpAddr;

use berth_network::{HostPort, PortRequest, Protocol};

use crate::config::{Config, HostConfig, PortBinding};
use crate::error::{Error, Result};

/// What is to be published.
pub fn wanted(
    config: &Config,
    host: &HostConfig,
    exposed: impl Iterator<Item = String>,
) -> Result<Vec<PortRequest>> {
    let mut bindings = host.port_bindings.clone();
    if host.publish_all_ports {
        let all = exposed.chain(config.exposed_ports.keys().cloned());
        for port in all {
            let of_port = bindings.entry(with_protocol(&port)).or_default();
            if of_port.is_empty() {
                of_port.push(PortBinding::default());
            }
        }
    }
    let mut wanted = Vec::new();
    for (port, bindings) in bindings {
        let (container_port, protocol) = parse(&port)?;
        for binding in bindings {
            let request = PortRequest {
                protocol,
                container_port,
                host_ip: address(&binding.host_ip)?,
                host_port: range(&binding.host_port)?,
            };
            if !wanted.contains(&request) {
                wanted.push(request);
            }
        }
    }
    Ok(wanted)
}

fn address(text: &str) -> Result<Option<IpAddr>> {
    match text {
        "" => Ok(None),
        text => match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(Error::invalid(format!("invalid host IP: {text:?}"))),
        },
    }
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

/// `port`, `first-last`, or nothing.
fn range(text: &str) -> Result<HostPort> {
    let number = |text: &str| text.parse::<u16>().map_err(|_| bad_port(text));
    match text.split_once('-') {
        _ if text.is_empty() => Ok(HostPort::Any),
        None => match number(text)? {
            0 => Ok(HostPort::Any),
            port => Ok(HostPort::Among(port..=port)),
        },
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            match first > last || first == 0 {
                true => Err(bad_port(text)),
                false => Ok(HostPort::Among(first..=last)),
            }
        }
    }
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

    fn read(port: &str, host_port: &str) -> Result<Vec<PortRequest>> {
        let host = host(port, host_port);
        wanted(&Config::default(), &host, std::iter::empty())
    }

    #[test]
    fn a_port_is_named_one_of_a_range_or_any() {
        for (host_port, wanted) in [
            ("8800", HostPort::Among(8800..=8800)),
            ("8000-8010", HostPort::Among(8000..=8010)),
            ("", HostPort::Any),
            ("0", HostPort::Any),
        ] {
            let found = read("80", host_port).unwrap();
            assert_eq!((found[0].container_port, found.len()), (80, 1));
            assert_eq!(found[0].host_port, wanted);
        }
    }

    #[test]
    fn all_exposed_ports_are_published_if_that_is_asked_for() {
        let mut host = host("80/tcp", "8800");
        host.publish_all_ports = true;
        let exposed = ["80/tcp", "53/udp"].map(str::to_owned);
        let found = wanted(&Config::default(), &host, exposed.into_iter()).unwrap();
        let any: Vec<_> = found
            .iter()
            .map(|one| one.host_port == HostPort::Any)
            .collect();
        assert_eq!(any, [true, false]);
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
            assert!(read(port, host_port).is_err(), "{port} {host_port}");
        }
    }
}
