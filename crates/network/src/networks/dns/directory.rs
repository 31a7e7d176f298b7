//! Which names there are on which network, as its containers may ask for them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_names::{ContainerId, NetworkId};
use parking_lot::RwLock;

use crate::networks::member::{Endpoint, Membership};

/// All names, kept beside the memberships so that a question costs no more with many containers.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    names: RwLock<Names>,
    /// Turns the addresses of a name that several containers share.
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct Names {
    zones: HashMap<NetworkId, Zone>,
    /// The networks on which a container has names, in its order.
    places: HashMap<ContainerId, Vec<Place>>,
    /// Who may ask the world: not who is on internal networks alone.
    outward: HashSet<ContainerId>,
}

#[derive(Debug)]
struct Place {
    network: NetworkId,
    /// In lower case, as in the zone.
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    /// By which names it alone finds others, and their names, all in lower case.
    links: BTreeMap<String, String>,
}

/// The names of one network.
#[derive(Debug)]
struct Zone {
    /// The network's own name, in lower case, behind a dot.
    suffix: String,
    names: HashMap<String, Vec<(ContainerId, Vec<IpAddr>)>>,
    /// The first name of whoever has an address.
    holders: HashMap<IpAddr, String>,
}

impl Directory {
    /// Replaces what is known of a container.
    pub(crate) fn set(&self, membership: &Membership) {
        let mut names = self.names.write();
        names.remove(&membership.member.id);
        let places: Vec<_> = (membership.endpoints.iter())
            .filter(|endpoint| !endpoint.names.is_empty())
            .map(|endpoint| names.add(&membership.member.id, endpoint))
            .collect();
        if !places.is_empty() {
            names.places.insert(membership.member.id.clone(), places);
        }
        if membership.gateway.is_some() {
            names.outward.insert(membership.member.id.clone());
        }
    }

    pub(crate) fn remove(&self, container: &ContainerId) {
        self.names.write().remove(container);
    }

    /// Whether a container has a way out by any of its networks.
    pub(super) fn outward(&self, container: &ContainerId) -> bool {
        self.names.read().outward.contains(container)
    }

    /// The addresses of a name that a container may know: on the first of its networks that has it,
    /// alone or with the network's name behind it. `None` where nobody is called so.
    pub(super) fn addresses(&self, asker: &ContainerId, name: &str) -> Option<Vec<IpAddr>> {
        let names = self.names.read();
        let found = names.places.get(asker)?.iter().find_map(|place| {
            let zone = names.zones.get(&place.network)?;
            let local = name.strip_suffix(zone.suffix.as_str()).unwrap_or(name);
            let linked = place.links.get(local).and_then(|name| zone.names.get(name));
            linked.or_else(|| zone.names.get(name).or_else(|| zone.names.get(local)))
        })?;
        let mut holders: Vec<_> = found.iter().map(|(_, addresses)| addresses).collect();
        // Two questions a turn: clients ask for both families, and are to be told the same first.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) / 2 % holders.len().max(1);
        holders.rotate_left(turn);
        Some(holders.into_iter().flatten().copied().collect())
    }

    /// The name of whoever has an address on one of the asker's networks.
    pub(super) fn name(&self, asker: &ContainerId, address: IpAddr) -> Option<String> {
        let names = self.names.read();
        names.places.get(asker)?.iter().find_map(|place| {
            let zone = names.zones.get(&place.network)?;
            let holder = zone.holders.get(&address)?;
            Some(format!("{holder}{}", zone.suffix))
        })
    }
}

impl Names {
    fn add(&mut self, container: &ContainerId, endpoint: &Endpoint) -> Place {
        let zone = (self.zones.entry(endpoint.network.clone())).or_insert_with(|| Zone {
            suffix: format!(".{}", endpoint.network_name.to_ascii_lowercase()),
            names: HashMap::new(),
            holders: HashMap::new(),
        });
        let addresses: Vec<_> = endpoint.addresses.iter().map(|a| a.address).collect();
        let mut names: Vec<_> = endpoint
            .names
            .iter()
            .map(|n| n.to_ascii_lowercase())
            .collect();
        names.sort();
        names.dedup();
        for name in &names {
            let holders = zone.names.entry(name.clone()).or_default();
            holders.push((container.clone(), addresses.clone()));
        }
        for (address, name) in addresses.iter().zip(std::iter::repeat(&endpoint.names[0])) {
            zone.holders.insert(*address, name.clone());
        }
        Place {
            network: endpoint.network.clone(),
            names,
            addresses,
            links: (endpoint.request.links.iter())
                .map(|(alias, name)| (alias.to_ascii_lowercase(), name.to_ascii_lowercase()))
                .collect(),
        }
    }

    fn remove(&mut self, container: &ContainerId) {
        self.outward.remove(container);
        for place in self.places.remove(container).into_iter().flatten() {
            let Some(zone) = self.zones.get_mut(&place.network) else {
                continue;
            };
            for name in &place.names {
                if let Some(holders) = zone.names.get_mut(name) {
                    holders.retain(|(holder, _)| holder != container);
                    if holders.is_empty() {
                        zone.names.remove(name);
                    }
                }
            }
            for address in &place.addresses {
                zone.holders.remove(address);
            }
            if zone.names.is_empty() {
                self.zones.remove(&place.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::member::{EndpointAddress, EndpointRequest, Member};
    use berth_names::EndpointId;

    fn membership(number: u8, name: &str, places: &[(u8, &str, &[&str], &str)]) -> Membership {
        let endpoint =
            |(network, network_name, aliases, address): &(u8, &str, &[&str], &str)| Endpoint {
                plug: None,
                id: EndpointId::from_random([number; 32]),
                network: NetworkId::from_random([*network; 32]),
                network_name: network_name.to_string(),
                interface: "eth0".to_owned(),
                mac: None,
                addresses: vec![EndpointAddress {
                    address: address.parse().unwrap(),
                    prefix: 16,
                    gateway: None,
                }],
                names: [name]
                    .iter()
                    .chain(*aliases)
                    .map(|n| n.to_string())
                    .collect(),
                request: EndpointRequest::default(),
            };
        Membership {
            member: Member {
                id: id(number),
                name: name.to_owned(),
                netns: Default::default(),
                ports: Vec::new(),
                dns: Default::default(),
            },
            endpoints: places.iter().map(endpoint).collect(),
            gateway: None,
            ports: Vec::new(),
        }
    }

    fn id(number: u8) -> ContainerId {
        ContainerId::from_random([number; 32])
    }

    fn ask(directory: &Directory, asker: u8, name: &str) -> Option<String> {
        let found = directory.addresses(&id(asker), name)?;
        Some(
            found
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
        )
    }

    #[test]
    fn a_link_is_a_name_for_who_asked_for_it_alone() {
        let directory = Directory::default();
        directory.set(&membership(1, "DB", &[(1, "front", &[], "10.1.0.1")]));
        directory.set(&membership(2, "app", &[(1, "front", &[], "10.1.0.2")]));
        let mut linked = membership(3, "web", &[(1, "front", &[], "10.1.0.3")]);
        linked.endpoints[0].request.links = [("Store".to_owned(), "DB".to_owned())].into();
        directory.set(&linked);
        assert_eq!(ask(&directory, 3, "store").as_deref(), Some("10.1.0.1"));
        assert_eq!(ask(&directory, 3, "db").as_deref(), Some("10.1.0.1"));
        assert_eq!(ask(&directory, 2, "store"), None);
        directory.remove(&id(1));
        assert_eq!(ask(&directory, 3, "store"), None);
    }

    #[test]
    fn names_are_found_on_the_askers_networks_only() {
        let directory = Directory::default();
        directory.set(&membership(1, "Web", &[(1, "Front", &["www"], "10.1.0.1")]));
        directory.set(&membership(2, "db", &[(2, "back", &[], "10.2.0.1")]));
        directory.set(&membership(
            3,
            "app",
            &[(1, "Front", &[], "10.1.0.3"), (2, "back", &[], "10.2.0.3")],
        ));
        for (asker, name, wanted) in [
            (1, "web", Some("10.1.0.1")),
            (1, "app.front", Some("10.1.0.3")),
            (1, "db", None),
            (1, "app.back", None),
            (2, "web", None),
            (2, "app", Some("10.2.0.3")),
            (3, "www", Some("10.1.0.1")),
            (3, "db.back", Some("10.2.0.1")),
            (9, "web", None),
        ] {
            assert_eq!(
                ask(&directory, asker, name).as_deref(),
                wanted,
                "{asker} {name}"
            );
        }
        let reverse = |asker, ip: &str| directory.name(&id(asker), ip.parse().unwrap());
        assert_eq!(reverse(3, "10.2.0.1").as_deref(), Some("db.back"));
        assert_eq!(reverse(1, "10.2.0.1"), None);
        directory.remove(&id(2));
        assert_eq!(ask(&directory, 3, "db"), None);
        assert_eq!(reverse(3, "10.2.0.1"), None);
    }

    #[test]
    fn a_shared_name_begins_with_each_in_turn_and_goes_with_the_last() {
        let directory = Directory::default();
        for number in 1..=3 {
            let address = format!("10.1.0.{number}");
            let name = format!("c{number}");
            directory.set(&membership(number, &name, &[(1, "n", &["svc"], &address)]));
        }
        let firsts: std::collections::HashSet<_> = (0..6)
            .map(|_| directory.addresses(&id(1), "svc").unwrap()[0])
            .collect();
        assert_eq!(firsts.len(), 3);
        directory.remove(&id(2));
        directory.remove(&id(3));
        assert_eq!(ask(&directory, 1, "svc").as_deref(), Some("10.1.0.1"));
        directory.remove(&id(1));
        assert!(directory.names.read().zones.is_empty());
    }
}
