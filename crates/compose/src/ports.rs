//! Ports: `8080:80`, `127.0.0.1:8000-8010:8000-8010/udp`, and their long form.

use std::net::IpAddr;

use crate::error::{Error, Path, Result};
use crate::node::{Kind, Node};
use crate::read::Reader;

/// One port or a range of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let port = |text: &str| text.parse::<u16>().ok();
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self {
            first: port(first)?,
            last: port(last)?,
        };
        (range.first <= range.last).then_some(range)
    }

    fn length(self) -> u16 {
        self.last - self.first
    }
}

/// The list, with ranges written out.
pub fn long(node: &Node, path: &Path, _: &Reader<'_>) -> Result<Node> {
    let Kind::List(items) = &node.kind else {
        return Ok(node.clone());
    };
    let mut ports = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let here = path.index(index);
        match item.scalar() {
            Some(text) => ports.extend(
                parse(&text)
                    .map_err(|why| {
                        let reason = format!(
                            "{text:?} is no port: {why}; write \"host:container\", as \"8080:80\" \
                             or \"127.0.0.1:8080:80/tcp\""
                        );
                        Error::field(&item.at, &here, reason)
                    })?
                    .into_iter()
                    .map(|port| port.node(item)),
            ),
            None => ports.push(checked(item, &here)?),
        }
    }
    Ok(Node::new(&node.at, Kind::List(ports)))
}

/// The long form: with its defaults.
fn checked(item: &Node, path: &Path) -> Result<Node> {
    let mut port = item.clone();
    if !matches!(item.kind, Kind::Map(_)) {
        return Ok(port);
    }
    if item.get("target").is_none_or(Node::is_null) {
        let reason = "it has no target, the port in the container";
        return Err(Error::field(&item.at, path, reason));
    }
    if let Some(address) = item.get("host_ip").and_then(Node::scalar)
        && !address.is_empty()
        && address.parse::<IpAddr>().is_err()
    {
        let reason = format!("{address:?} is no address of this machine; write its digits");
        return Err(Error::field(&item.at, &path.key("host_ip"), reason));
    }
    if let Some(published) = item.get("published").and_then(Node::scalar)
        && !published.is_empty()
        && Range::parse(&published).is_none()
    {
        let reason = format!("{published:?} is neither a port nor a range of ports");
        return Err(Error::field(&item.at, &path.key("published"), reason));
    }
    for (key, default) in [("protocol", "tcp"), ("mode", "ingress")] {
        if port.get(key).is_none() {
            port.set(key, Node::text(&item.at, default));
        }
    }
    Ok(port)
}

#[derive(Debug, PartialEq, Eq)]
struct Port {
    address: String,
    published: String,
    target: u16,
    protocol: String,
}

impl Port {
    fn node(self, item: &Node) -> Node {
        let mut node = Node::map(
            &item.at,
            [
                ("mode", Kind::Text("ingress".to_owned())),
                ("target", Kind::Int(self.target.into())),
                ("protocol", Kind::Text(self.protocol)),
            ],
        );
        for (key, text) in [("host_ip", self.address), ("published", self.published)] {
            if !text.is_empty() {
                node.set(key, Node::text(&item.at, text));
            }
        }
        node
    }
}

fn parse(text: &str) -> Result<Vec<Port>, String> {
    let (body, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("{protocol:?} is neither tcp, udp nor sctp"));
    }
    let (rest, target) = match body.rsplit_once(':') {
        Some((rest, target)) => (Some(rest), target),
        None => (None, body),
    };
    let (address, published) = match rest {
        None => ("", ""),
        Some(rest) => rest.rsplit_once(':').unwrap_or(("", rest)),
    };
    let address = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("{address:?} is no address"));
    }
    let range = |text: &str| {
        Range::parse(text).ok_or_else(|| format!("{text:?} is no number up to 65535, nor a range"))
    };
    let target = range(target)?;
    let host = match published {
        "" => None,
        text => Some(range(text)?),
    };
    if let Some(host) = host
        && target.length() > 0
        && host.length() != target.length()
    {
        return Err("both ranges have to be of the same length".to_owned());
    }
    let mut ports: Vec<Port> = (0..=target.length())
        .map(|step| Port {
            address: address.to_owned(),
            published: match host {
                None => String::new(),
                Some(_) if target.length() == 0 => published.to_owned(),
                Some(host) => (host.first + step).to_string(),
            },
            target: target.first + step,
            protocol: protocol.clone(),
        })
        .collect();
    // The stock client's order, which is part of the hash.
    ports.sort_by_key(|port| port.target.to_string());
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_are_understood() {
        for (text, expected) in [
            ("80", vec![("", "", 80, "tcp")]),
            ("8080:80", vec![("", "8080", 80, "tcp")]),
            ("127.0.0.1::80", vec![("127.0.0.1", "", 80, "tcp")]),
            ("[::1]:8080:80/udp", vec![("::1", "8080", 80, "udp")]),
            ("8000-9000:80", vec![("", "8000-9000", 80, "tcp")]),
            (
                "19-20:9-10/UDP",
                vec![("", "20", 10, "udp"), ("", "19", 9, "udp")],
            ),
        ] {
            let expected: Vec<Port> = expected
                .into_iter()
                .map(|(address, published, target, protocol)| Port {
                    address: address.to_owned(),
                    published: published.to_owned(),
                    target,
                    protocol: protocol.to_owned(),
                })
                .collect();
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_told_why() {
        for (text, part) in [
            ("", "no number"),
            ("80:x", "no number"),
            ("70000", "no number"),
            ("90-80", "no number"),
            ("here:80:80", "no address"),
            ("80/icmp", "neither tcp"),
            ("1-3:1-2", "same length"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
