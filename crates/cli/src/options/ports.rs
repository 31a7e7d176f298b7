//! `--publish [[address:]host:]container[/protocol]`, with ranges, and `--expose`.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// `PortBindings` and `ExposedPorts`.
#[derive(Debug, Default)]
pub struct Ports {
    pub bindings: Map<String, Value>,
    pub exposed: Map<String, Value>,
}

pub fn ports(publish: &[String], expose: &[String]) -> Result<Ports> {
    let mut ports = Ports::default();
    for text in publish {
        ports.publish(text)?;
    }
    for text in expose {
        let (range, protocol) = protocol(text).ok_or_else(|| bad(text))?;
        for port in range_of(range).ok_or_else(|| bad(text))? {
            ports
                .exposed
                .insert(format!("{port}/{protocol}"), json!({}));
        }
    }
    Ok(ports)
}

fn bad(text: &str) -> Error {
    Error::usage(format!(
        "{text:?} is no port: write 8080:80, 127.0.0.1:8080:80/udp, 8000-8010:80-90, or 80 for any \
         free port"
    ))
}

impl Ports {
    fn publish(&mut self, text: &str) -> Result<()> {
        let (places, protocol) = protocol(text).ok_or_else(|| bad(text))?;
        let (address, host, container) = parts(places).ok_or_else(|| bad(text))?;
        let inside = range_of(container).ok_or_else(|| bad(text))?;
        let outside = match host {
            "" => None,
            host => Some(range_of(host).ok_or_else(|| bad(text))?),
        };
        let one_of_many = inside.start() == inside.end();
        if let Some(outside) = &outside
            && !one_of_many
            && outside.clone().count() != inside.clone().count()
        {
            return Err(Error::usage(format!(
                "{text:?}: there are not as many ports outside as inside"
            )));
        }
        for (at, port) in inside.enumerate() {
            let host_port = match &outside {
                None => String::new(),
                // Any of them that is free.
                Some(_) if one_of_many => host.to_owned(),
                Some(outside) => outside
                    .clone()
                    .nth(at)
                    .map(|port| port.to_string())
                    .unwrap_or_default(),
            };
            self.bind(&format!("{port}/{protocol}"), address, &host_port);
        }
        Ok(())
    }

    fn bind(&mut self, port: &str, address: &str, host_port: &str) {
        self.exposed.insert(port.to_owned(), json!({}));
        let bindings = self
            .bindings
            .entry(port)
            .or_insert_with(|| json!([]))
            .as_array_mut();
        if let Some(bindings) = bindings {
            bindings.push(json!({"HostIp": address, "HostPort": host_port}));
        }
    }
}

fn protocol(text: &str) -> Option<(&str, String)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    matches!(protocol.as_str(), "tcp" | "udp" | "sctp").then_some((ports, protocol))
}

/// Address, ports of the host, ports of the container; the first two may be empty.
fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let (rest, container) = match text.rsplit_once(':') {
        Some((rest, container)) => (rest, container),
        None => return Some(("", "", text)),
    };
    let (address, host) = match rest.rsplit_once(':') {
        // An address in brackets holds colons itself.
        Some(_) if rest.starts_with('[') && rest.ends_with(']') => (rest, ""),
        Some((address, host)) => (address, host),
        None if rest.parse::<IpAddr>().is_ok() => (rest, ""),
        None => ("", rest),
    };
    let address = address
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(address);
    let is_address = address.is_empty() || address.parse::<IpAddr>().is_ok();
    is_address.then_some((address, host, container))
}

fn range_of(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bindings(text: &str) -> String {
        let ports = ports(&[text.to_owned()], &[]).unwrap();
        assert_eq!(
            ports.exposed.keys().collect::<Vec<_>>(),
            ports.bindings.keys().collect::<Vec<_>>()
        );
        let all = ports.bindings.iter().flat_map(|(port, bindings)| {
            let bindings = bindings.as_array().cloned().unwrap_or_default();
            bindings.into_iter().map(move |binding| {
                let part = |key: &str| binding[key].as_str().unwrap_or_default().to_owned();
                format!("{}|{}|{port}", part("HostIp"), part("HostPort"))
            })
        });
        all.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ports_are_published_in_all_their_forms() {
        for (text, expected) in [
            ("80", "||80/tcp"),
            ("8080:80", "|8080|80/tcp"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1|8080|80/udp"),
            ("127.0.0.1::80", "127.0.0.1||80/tcp"),
            ("127.0.0.1:80", "127.0.0.1||80/tcp"),
            ("[::1]:8080:80", "::1|8080|80/tcp"),
            ("[::1]::80", "::1||80/tcp"),
            ("8000-8001:90-91", "|8000|90/tcp |8001|91/tcp"),
            ("8000-8010:80", "|8000-8010|80/tcp"),
        ] {
            assert_eq!(bindings(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in [
            "", "x", "80:x", "0", "70000", "9-8:1-2", "80/icmp", "1-2:1-3", "h:1:2",
        ] {
            assert!(ports(&[text.to_owned()], &[]).is_err(), "{text}");
        }
        assert!(
            ports(&[], &["80-81/udp".to_owned()])
                .unwrap()
                .exposed
                .contains_key("81/udp")
        );
        assert!(ports(&[], &["a".to_owned()]).is_err());
    }
}
