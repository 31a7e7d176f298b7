//! Namespaces that a container has from another one (`container:` in a mode of the request).
//!
//! The other one is named once, when the container is made, and is found by its id from then on. It
//! has to run whenever this one starts. A run keeps what it joined: when the other one is started
//! again, it is in new namespaces, and this one has to be started again to be with it.

use std::path::PathBuf;
use std::sync::Arc;

use berth_lifecycle::request::{Joined, Scope};
use berth_names::ContainerId;

use crate::config::{Config, HostConfig};
use crate::container::Container;
use crate::error::{Error, Result};
use crate::files::Files;
use crate::house::House;
use crate::links::Link;
use crate::record::{Phase, Record};
use crate::request::{self, Network};

const CONTAINER: &str = "container:";

/// Whose namespace a mode names, if it is a container's.
pub(crate) fn of_container(mode: &str) -> Option<&str> {
    mode.strip_prefix(CONTAINER)
}

/// What a run has from others, looked up when it starts.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    pub joined: Joined,
    /// Of whose network the names and the resolver are.
    pub network: Option<Arc<Record>>,
    /// The file that both have as /etc/hosts.
    pub hosts: Option<PathBuf>,
    /// Where the other one has the host's own namespaces.
    pub host_network: bool,
    pub links: Vec<Link>,
    pub host_ipc: bool,
}

impl House {
    /// Replaces names in modes by ids. Not found is no 404 here: clients would take it for the
    /// image's, and pull that.
    pub fn settle_modes(&self, host: &mut HostConfig) -> Result<()> {
        for (kind, mode) in [
            ("network", &mut host.network_mode),
            ("PID", &mut host.pid_mode),
            ("IPC", &mut host.ipc_mode),
        ] {
            let Some(name) = of_container(mode) else {
                continue;
            };
            if name.is_empty() {
                return Err(Error::invalid(format!(
                    "invalid {kind} mode: invalid container format container:<name|id>"
                )));
            }
            let other = self.get(name).map_err(|error| {
                Error::invalid(format!("joining {kind} namespace of container: {error}"))
            })?;
            *mode = format!("{CONTAINER}{}", other.view().id);
        }
        Ok(())
    }

    /// What a run that is about to begin has from others, who all have to run.
    pub fn sharing(&self, record: &Record) -> Result<Sharing> {
        let (host, mut sharing) = (&record.host, Sharing::default());
        sharing.links = self.links(record)?;
        if let Some(id) = of_container(&host.network_mode) {
            let other = self.other(record, id, "network")?;
            let owner = self.owner(&other, |host| &host.network_mode)?;
            sharing.host_network = request::network(&owner.host)? == Network::Host;
            if !sharing.host_network {
                sharing.joined.network = Some(other.running()?.view().pod.clone());
            }
            sharing.hosts = Some(Files::new(&self.root, owner.id.as_str()).hosts());
            sharing.network = Some(owner);
        }
        if let Some(id) = of_container(&host.ipc_mode) {
            let other = self.other(record, id, "IPC")?;
            let view = other.view();
            let mode = view.host.ipc_mode.as_str();
            let owner = self.owner(&other, |host| &host.ipc_mode)?;
            sharing.host_ipc = owner.host.ipc_mode == "host";
            if !sharing.host_ipc {
                if mode != "shareable" && of_container(mode).is_none() {
                    return Err(Error::invalid(format!(
                        "failed to join IPC namespace: container {id}: non-shareable IPC (hint: \
                         use IpcMode:shareable for the donor container)"
                    )));
                }
                sharing.joined.ipc = Some(other.running()?.view().pod.clone());
            }
        }
        if let Some(id) = of_container(&host.pid_mode) {
            self.other(record, id, "PID")?;
        }
        Ok(sharing)
    }

    /// Whose a namespace is that others share in turn. None of them was made before the one that it
    /// names: there is an end.
    fn owner(&self, other: &Container, mode: impl Fn(&HostConfig) -> &str) -> Result<Arc<Record>> {
        let mut owner = other.view();
        while let Some(id) = of_container(mode(&owner.host)) {
            owner = self.get(id)?.view();
        }
        Ok(owner)
    }

    fn other(&self, record: &Record, id: &str, kind: &str) -> Result<Arc<Container>> {
        if record.id.as_str() == id {
            return Err(Error::invalid(format!("cannot join own {kind} namespace")));
        }
        let failed =
            |why: String| Error::Conflict(format!("cannot join {kind} namespace of {why}"));
        let other = self
            .get(id)
            .map_err(|error| failed(format!("container: {error}")))?;
        let view = other.view();
        match view.phase {
            Phase::Running | Phase::Paused => Ok(other),
            Phase::Restarting => Err(failed(format!(
                "container: container {id} is restarting, wait until the container is running"
            ))),
            phase => Err(failed(format!(
                "a non running container: container {} is {}",
                view.name,
                phase.name()
            ))),
        }
    }
}

/// Refuses what a container without a network of its own cannot have.
pub(crate) fn check(config: &Config, host: &HostConfig) -> Result<()> {
    if of_container(&host.network_mode).is_none() {
        return Ok(());
    }
    let conflict = [
        (!config.hostname.is_empty(), "hostname and the network mode"),
        (
            !host.links.is_empty(),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (!host.dns.is_empty(), "dns and the network mode"),
        (
            !host.extra_hosts.is_empty(),
            "custom host-to-IP mapping and the network mode",
        ),
        (
            !host.port_bindings.is_empty() || host.publish_all_ports,
            "port publishing and the container type network mode",
        ),
        (
            !config.exposed_ports.is_empty(),
            "port exposing and the container type network mode",
        ),
    ];
    match conflict.iter().find(|(is_asked, _)| *is_asked) {
        Some((_, what)) => Err(Error::invalid(format!("conflicting options: {what}"))),
        None => Ok(()),
    }
}

/// Whose PID namespace the process of a container is in.
pub(crate) fn pid_scope(mode: &str) -> Result<Scope> {
    match (mode, of_container(mode)) {
        ("" | "private", _) => Ok(Scope::Container),
        ("host", _) => Ok(Scope::Node),
        (_, Some(id)) => {
            let id = ContainerId::parse(id);
            let bad = |_| Error::invalid(format!("invalid PID mode: {mode}"));
            Ok(Scope::Target(id.map_err(bad)?.to_string()))
        }
        _ => Err(Error::invalid(format!("invalid PID mode: {mode}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_network_of_its_own_is_refused_without_one() {
        let host = HostConfig {
            network_mode: "container:x".to_owned(),
            ..HostConfig::default()
        };
        assert!(check(&Config::default(), &host).is_ok());
        let named = Config {
            hostname: "a".to_owned(),
            ..Config::default()
        };
        let text = check(&named, &host).unwrap_err().to_string();
        assert_eq!(text, "conflicting options: hostname and the network mode");
        let mut published = host.clone();
        published.publish_all_ports = true;
        assert!(check(&Config::default(), &published).is_err());
        published.network_mode = "bridge".to_owned();
        assert!(check(&named, &published).is_ok());
    }

    #[test]
    fn a_pid_mode_is_a_scope() {
        let id = ContainerId::from_random([3; 32]);
        for (mode, scope) in [
            ("", Some(Scope::Container)),
            ("private", Some(Scope::Container)),
            ("host", Some(Scope::Node)),
            ("shareable", None),
            ("container:", None),
            (
                &format!("container:{id}"),
                Some(Scope::Target(id.to_string())),
            ),
        ] {
            assert_eq!(pid_scope(mode).ok(), scope, "{mode}");
        }
    }
}
