//! The bridge itself: its subnet, its interface, and what the host must allow for it.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::config::BridgeConfig;
use crate::error::{Error, Result};
use crate::netlink::{LinkInfo, Refusal, Route};
use crate::record::{BridgeChoice, Records};
use crate::subnet::Subnet;

const DEFAULT_MTU: u32 = 1500;
const NAME_LIMIT: usize = 15;
/// Locally administered, unicast.
const MAC_PREFIX: [u8; 2] = [0xbe, 0x72];

#[derive(Debug, Clone)]
pub(super) struct Device {
    pub index: u32,
    pub mtu: u32,
    pub subnets: Vec<Subnet>,
}

/// Finds the bridge or makes it, and sees to its addresses and to forwarding.
///
/// Writes `/proc/sys`, hence works on the calling thread's network namespace, which must be the one
/// of `route`.
pub(super) fn ensure(
    config: &BridgeConfig,
    records: &Records,
    route: &mut Route,
) -> Result<Device> {
    check(config)?;
    let name = config.name.as_str();
    let existing = find(name, route)?;
    let subnets = choose_subnets(config, records, route, existing.as_ref())?;
    let mtu = match (config.mtu, &existing) {
        (Some(mtu), _) => mtu,
        (None, Some(link)) => link.mtu,
        (None, None) => uplink_mtu(route).map_err(|source| refused("list routes", name, source))?,
    };
    let gateways: Vec<_> = subnets
        .iter()
        .filter_map(|s| Some((s.nth(1)?, s.prefix())))
        .collect();
    let index = stand(name, existing, &gateways, mtu, route)?;
    allow_forwarding(name, &subnets)?;
    Ok(Device {
        index,
        mtu,
        subnets,
    })
}

/// Makes the bridge unless it is there, gives it the host's addresses and brings it up.
pub(crate) fn stand(
    name: &str,
    existing: Option<LinkInfo>,
    gateways: &[(IpAddr, u8)],
    mtu: u32,
    route: &mut Route,
) -> Result<u32> {
    let link = match existing {
        Some(link) => link,
        None => {
            let mac = gateways
                .first()
                .map_or([0; 6], |(gateway, _)| mac_of(*gateway));
            route
                .create_bridge(name, mac, mtu)
                .map_err(|source| refused("create the bridge", name, source))?;
            find(name, route)?.ok_or_else(|| {
                refused("create the bridge", name, rustix::io::Errno::NODEV.into())
            })?
        }
    };
    settle_ipv6(name);
    for (gateway, prefix) in gateways {
        route
            .add_address(link.index, *gateway, *prefix)
            .map_err(|source| refused("give the bridge its address", name, source))?;
    }
    route
        .set_up(link.index)
        .map_err(|source| refused("bring the bridge up", name, source))?;
    Ok(link.index)
}

/// A MAC that follows from the address: whoever remembers the address's neighbour entry keeps being
/// right when the address has moved on to another pod.
pub(crate) fn mac_of(address: IpAddr) -> [u8; 6] {
    let low: [u8; 4] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => (u128::from(address) as u32).to_be_bytes(),
    };
    [MAC_PREFIX[0], MAC_PREFIX[1], low[0], low[1], low[2], low[3]]
}

pub(crate) fn find(name: &str, route: &mut Route) -> Result<Option<LinkInfo>> {
    let link = route
        .link(name)
        .map_err(|source| refused("look up the bridge", name, source))?;
    match link {
        Some(link) if !link.bridge => Err(Error::InvalidBridge {
            reason: format!("{name} exists and is no bridge"),
        }),
        other => Ok(other),
    }
}

fn check(config: &BridgeConfig) -> Result<()> {
    let name = config.name.as_str();
    let fault = |reason: String| Err(Error::InvalidBridge { reason });
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty()
        || name.len() > NAME_LIMIT
        || !name.bytes().all(good)
        || name.starts_with('.')
    {
        return fault(format!("{name:?} is not an interface name"));
    }
    for family in [true, false] {
        if config
            .subnets
            .iter()
            .filter(|subnet| subnet.is_ipv4() == family)
            .count()
            > 1
        {
            return fault("two subnets of one family".to_owned());
        }
    }
    match config
        .subnets
        .iter()
        .find(|subnet| subnet.last_offset() < 3)
    {
        Some(subnet) => fault(format!("subnet {subnet} has no room for a pod")),
        None => Ok(()),
    }
}

fn choose_subnets(
    config: &BridgeConfig,
    records: &Records,
    route: &mut Route,
    existing: Option<&LinkInfo>,
) -> Result<Vec<Subnet>> {
    if !config.subnets.is_empty() {
        // Remembered too: pods keep them when a later daemon is told nothing, or something else.
        return remember(config, records, config.subnets.clone());
    }
    let name = config.name.as_str();
    let own = existing.map(|link| link.index);
    let occupied = occupied(|index| Some(index) == own, route)
        .map_err(|source| refused("list routes and addresses", name, source))?;
    let free = |subnet: &Subnet| !occupied.iter().any(|taken| taken.overlaps(subnet));

    let remembered = records
        .bridge_choice()
        .filter(|choice| choice.name == config.name);
    if let Some(choice) = remembered.filter(|choice| choice.subnets.iter().all(free)) {
        return Ok(choice.subnets);
    }
    let addresses = route
        .addresses()
        .map_err(|source| refused("list addresses", name, source))?;
    let inherited = addresses
        .iter()
        .find(|address| Some(address.index) == own && address.subnet.is_ipv4())
        .map(|address| address.subnet);
    let subnet = inherited
        .or_else(|| candidates().find(free))
        .ok_or(Error::NoFreeSubnet)?;
    remember(config, records, vec![subnet])
}

/// What the host routes or is reached by, less what is on our `own` interfaces.
pub(crate) fn occupied(
    own: impl Fn(u32) -> bool,
    route: &mut Route,
) -> std::result::Result<Vec<Subnet>, Refusal> {
    let routes = route.routes()?;
    let routed = routes
        .iter()
        .filter(|route| !own(route.index))
        .filter_map(|route| route.destination);
    let addresses = route.addresses()?;
    let reached = addresses
        .iter()
        .filter(|address| !own(address.index))
        .map(|address| address.subnet);
    Ok(routed.chain(reached).collect())
}

fn remember(config: &BridgeConfig, records: &Records, subnets: Vec<Subnet>) -> Result<Vec<Subnet>> {
    let choice = BridgeChoice {
        name: config.name.clone(),
        subnets,
    };
    records.put_bridge_choice(&choice)?;
    Ok(choice.subnets)
}

/// Private ranges in the order of preference.
fn candidates() -> impl Iterator<Item = Subnet> {
    let tens = (88..=127).map(|second| ([10, second, 0, 0], 16));
    let twelves = (20..=31).map(|second| ([172, second, 0, 0], 16));
    let small = (0..16).map(|block| ([192, 168, block * 16, 0], 20));
    tens.chain(twelves)
        .chain(small)
        .filter_map(|(base, prefix)| Subnet::new(IpAddr::from(base), prefix).ok())
}

/// What the host's default route can carry.
pub(crate) fn uplink_mtu(route: &mut Route) -> std::result::Result<u32, Refusal> {
    let uplink = route
        .routes()?
        .into_iter()
        .find(|route| route.destination.is_none() && route.index != 0)
        .map(|route| route.index);
    let links = route.links()?;
    let mtu = links
        .iter()
        .find(|link| Some(link.index) == uplink && !link.loopback);
    Ok(mtu.map_or(DEFAULT_MTU, |link| link.mtu))
}

/// Settles IPv6 on one of our interfaces before it is brought up, from within its namespace.
///
/// A pod that advertises itself as a router must be believed neither by the host nor by its
/// neighbours. And a link-local address need not be searched for duplicates, because it follows
/// from a MAC that we made unique: meanwhile it would be unusable, and a hairpin port would reflect
/// the search and have it find itself. Hosts without IPv6 have no such files, and need none.
pub(crate) fn settle_ipv6(name: &str) {
    for knob in ["accept_ra", "accept_dad"] {
        let _ = set(&format!("net/ipv6/conf/{name}/{knob}"), "0");
    }
}

pub(crate) fn allow_forwarding(name: &str, subnets: &[Subnet]) -> Result<()> {
    if subnets.iter().any(Subnet::is_ipv4) {
        set("net/ipv4/ip_forward", "1")?;
        // Published ports answer on 127.0.0.1 too; the firewall's guard keeps pods out.
        set(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    }
    if subnets.iter().any(|subnet| !subnet.is_ipv4()) {
        keep_router_advertisements()?;
        set("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// A host that forwards IPv6 stops listening to its own router unless told to go on.
fn keep_router_advertisements() -> Result<()> {
    let Ok(interfaces) = fs::read_dir("/proc/sys/net/ipv6/conf") else {
        return Ok(());
    };
    for interface in interfaces.flatten() {
        let knob = interface.path().join("accept_ra");
        if fs::read_to_string(&knob).is_ok_and(|value| value.trim() == "1") {
            fs::write(&knob, "2").map_err(|source| unwritable(&knob, source))?;
        }
    }
    Ok(())
}

pub(crate) fn set(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    // Reading first lets a host with a read-only /proc/sys serve, if it is set up already.
    match fs::read_to_string(&path) {
        Ok(present) if present.trim() == value => Ok(()),
        Ok(_) => fs::write(&path, value).map_err(|source| unwritable(&path, source)),
        Err(source) => Err(Error::Io {
            operation: "read",
            path,
            source,
        }),
    }
}

fn unwritable(path: &Path, source: io::Error) -> Error {
    Error::Io {
        operation: "write",
        path: path.to_owned(),
        source,
    }
}

pub(crate) fn refused(operation: &'static str, object: &str, source: Refusal) -> Error {
    Error::Kernel {
        operation,
        object: object.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_bridges_are_refused_before_anything_is_touched() {
        let name = |name: &str| BridgeConfig {
            name: name.to_owned(),
            ..BridgeConfig::default()
        };
        for bad in ["", "a/b", "sixteen-letters-", "a b", "..", "é"] {
            assert!(check(&name(bad)).is_err(), "{bad:?} was taken");
        }
        for bad in [
            &["10.0.0.0/24", "10.1.0.0/24"][..],
            &["10.0.0.0/31"],
            &["fd00::/127"],
        ] {
            let subnets = bad.iter().map(|text| text.parse().unwrap()).collect();
            assert!(
                check(&BridgeConfig {
                    subnets,
                    ..BridgeConfig::default()
                })
                .is_err()
            );
        }
        check(&BridgeConfig::default()).unwrap();
    }

    #[test]
    fn a_mac_is_unicast_and_local_and_follows_the_address() {
        let mac = mac_of("10.88.3.4".parse().unwrap());
        assert_eq!((mac[0] & 1, mac[0] & 2), (0, 2));
        assert_eq!(mac[2..], [10, 88, 3, 4]);
    }
}
