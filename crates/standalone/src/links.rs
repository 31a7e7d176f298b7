//! Links on the default network, where names are not answered: the other container's address in
//! /etc/hosts, and what it offers in the environment, as long as it runs.
//!
//! A link is kept as `/name:/own name/alias`, the way that the Engine API shows it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::HostConfig;
use crate::error::{Error, Result};
use crate::house::House;
use crate::record::{Phase, Record};
use crate::request::{self, Network};
use crate::task::Command;

/// Another container under the name by which this one knows it.
#[derive(Debug)]
pub(crate) struct Link {
    alias: String,
    /// `/own name/alias`.
    path: String,
    other: Arc<Record>,
    /// `number/protocol` of what the other one exposes, in order.
    ports: Vec<(u16, String)>,
    environment: Vec<String>,
}

impl House {
    /// Brings the links of a new container into the form that is kept; the others have to be there.
    pub fn settle_links(&self, own: &str, host: &mut HostConfig) -> Result<()> {
        for link in &mut host.links {
            let (name, alias) = parse(link)?;
            // No 404: clients would take it for the image's, and pull that.
            let other = self.get(name).map_err(|error| {
                Error::invalid(format!("could not get container for {name}: {error}"))
            })?;
            let view = other.view();
            if request::network(&view.host)? == Network::Host {
                return Err(Error::invalid(
                    "conflicting options: host type networking can't be used with links. This \
                     would result in undefined behavior",
                ));
            }
            *link = format!("/{}:/{own}/{alias}", view.name);
        }
        Ok(())
    }

    /// The links of a container that is about to run, or runs: all others have to.
    pub fn links(&self, record: &Record) -> Result<Vec<Link>> {
        if !matches!(request::network(&record.host)?, Network::Joined(name) if name == "bridge") {
            // Elsewhere the network's names are for that.
            return Ok(Vec::new());
        }
        let links = record.host.links.iter();
        links.map(|link| self.link(record, link)).collect()
    }

    fn link(&self, record: &Record, link: &str) -> Result<Link> {
        let (name, alias) = parse(link)?;
        let path = format!("/{}/{alias}", record.name);
        let other = self.get(name)?.view();
        if !matches!(other.phase, Phase::Running | Phase::Paused) {
            return Err(Error::Conflict(format!(
                "Cannot link to a non running container: /{name} AS {path}"
            )));
        }
        let image = self.images.get(&other.image_id.to_string());
        let config = image.as_ref().map(|image| &image.config);
        let exposed = config.into_iter().flat_map(|config| config.exposed_ports());
        let own = other.config.exposed_ports.keys();
        let bound = other.host.port_bindings.keys();
        let ports = exposed.chain(own.chain(bound).map(String::as_str));
        let variables = config.into_iter().flat_map(|config| config.env());
        Ok(Link {
            alias: alias.to_owned(),
            path,
            ports: in_order(ports),
            environment: variables.chain(&other.config.env).cloned().collect(),
            other,
        })
    }

    /// Whoever knows this one by a link is to look up its address anew.
    pub fn tell_linked(&self, record: &Record) {
        for container in self.all() {
            let view = container.view();
            let names = |link: &String| parse(link).is_ok_and(|(name, _)| name == record.name);
            if view.phase.runs() && view.host.links.iter().any(names) {
                container.mailbox.hint(Command::RefreshHosts);
            }
        }
    }
}

impl Link {
    /// For /etc/hosts.
    pub fn names(&self) -> String {
        let hostname = request::hostname(&self.other);
        let mut names = vec![&self.alias, &hostname, &self.other.name];
        names.dedup();
        if self.alias == self.other.name {
            names.truncate(2);
        }
        names
            .into_iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    }

    pub fn address(&self) -> Option<IpAddr> {
        let on_bridge = self.other.joined.get("bridge")?;
        on_bridge.ip_address.parse().ok()
    }

    /// `ALIAS_PORT_80_TCP_ADDR` and its like, as they have ever been.
    pub fn variables(&self) -> Vec<(String, String)> {
        let alias = self.alias.to_uppercase().replace('-', "_");
        let address = self.address();
        let address = address.map_or_else(String::new, |address| address.to_string());
        let mut all = Vec::new();
        let mut set = |name: String, value: String| all.push((format!("{alias}_{name}"), value));
        if let Some((port, protocol)) = self.ports.first() {
            set("PORT".to_owned(), format!("{protocol}://{address}:{port}"));
        }
        for (first, last, protocol) in ranges(&self.ports) {
            let name = format!("PORT_{first}_{}", protocol.to_uppercase());
            for (end, port) in [("START", first), ("END", last)] {
                set(
                    format!("{name}_{end}"),
                    format!("{protocol}://{address}:{port}"),
                );
                set(format!("{name}_PORT_{end}"), port.to_string());
            }
        }
        for (port, protocol) in &self.ports {
            let name = format!("PORT_{port}_{}", protocol.to_uppercase());
            set(name.clone(), format!("{protocol}://{address}:{port}"));
            set(format!("{name}_ADDR"), address.clone());
            set(format!("{name}_PORT"), port.to_string());
            set(format!("{name}_PROTO"), protocol.clone());
        }
        set("NAME".to_owned(), self.path.clone());
        for entry in &self.environment {
            match entry.split_once('=') {
                None | Some(("HOME" | "PATH", _)) => {}
                Some((name, value)) => set(format!("ENV_{name}"), value.to_owned()),
            }
        }
        all
    }
}

/// First and last of three ports or more in a row.
fn ranges(ports: &[(u16, String)]) -> Vec<(u16, u16, &str)> {
    let follows = |one: &(u16, String), other: &(u16, String)| {
        one.1 == other.1 && one.0.checked_add(1) == Some(other.0)
    };
    let rows = ports.chunk_by(follows).filter(|row| row.len() > 2);
    let ends =
        rows.filter_map(|row| Some((row.first()?.0, row.last()?.0, row.first()?.1.as_str())));
    ends.collect()
}

/// TCP first, each by its number.
fn in_order<'a>(ports: impl Iterator<Item = &'a str>) -> Vec<(u16, String)> {
    let parsed = ports.filter_map(|port| {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        Some((
            protocol != "tcp",
            number.parse::<u16>().ok()?,
            protocol.to_owned(),
        ))
    });
    let sorted: BTreeSet<_> = parsed.collect();
    let without = |(_, number, protocol)| (number, protocol);
    sorted.into_iter().map(without).collect()
}

/// `name`, `name:alias` or `/name:/own name/alias`: name and alias.
pub(crate) fn parse(link: &str) -> Result<(&str, &str)> {
    let bad = || Error::invalid(format!("bad format for links: {link}"));
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    let name = name.trim_start_matches('/');
    let alias = match alias.starts_with('/') {
        true => alias.rsplit('/').next().unwrap_or_default(),
        false => alias,
    };
    match name.is_empty() || alias.is_empty() || alias.contains([':', '/']) {
        true => Err(bad()),
        false => Ok((name, alias)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_they_are_asked_for_and_as_they_are_kept() {
        for (link, parts) in [
            ("db", Some(("db", "db"))),
            ("db:store", Some(("db", "store"))),
            ("/db:/web/store", Some(("db", "store"))),
            ("", None),
            (":a", None),
            ("a:", None),
            ("a:b:c", None),
            ("a:b/c", None),
        ] {
            assert_eq!(parse(link).ok(), parts, "{link}");
        }
    }

    #[test]
    fn what_the_other_one_offers_is_in_the_environment() {
        let image = format!("sha256:{}", "a".repeat(64));
        let other: Record = serde_json::from_value(serde_json::json!({
            "id": "0123456789abcdef".repeat(4), "name": "db", "created_at": 0,
            "image_id": image, "config": {}, "host": {}, "command": [], "mounts": [],
            "log_path": null, "phase": "running",
            "joined": {"bridge": {"IPAddress": "10.0.0.7"}},
        }))
        .unwrap();
        let link = Link {
            alias: "my-db".to_owned(),
            path: "/web/my-db".to_owned(),
            other: Arc::new(other),
            ports: in_order(["53/udp", "8080/tcp", "80", "80/tcp"].into_iter()),
            environment: vec!["A=1".to_owned(), "PATH=/bin".to_owned()],
        };
        assert_eq!(link.names(), "my-db 0123456789ab db");
        let all: Vec<String> = link
            .variables()
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(all[0], "MY_DB_PORT=tcp://10.0.0.7:80");
        assert_eq!(all[2], "MY_DB_PORT_80_TCP_ADDR=10.0.0.7");
        assert_eq!(all.len(), 1 + 3 * 4 + 2);
        assert_eq!(all[13], "MY_DB_NAME=/web/my-db");
        assert_eq!(all[14], "MY_DB_ENV_A=1");
    }

    #[test]
    fn ports_in_a_row_are_a_range_from_three_on() {
        let ports = [
            "80", "81", "7000", "7001", "7002", "7003/udp", "7004/udp", "65535",
        ];
        let ports = in_order(ports.into_iter());
        assert_eq!(ranges(&ports), [(7000, 7002, "tcp")]);
        assert!(ranges(&[]).is_empty());
    }
}
