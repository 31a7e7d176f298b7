//! Which subnets a network has: asked for, or the next of the default pools that is free. Decided
//! purely, from what is occupied.

use std::net::IpAddr;

use super::definition::{IpamConfig, NetworkSubnet, NewNetwork};
use crate::addresses::Pool;
use crate::error::{Error, Result};
use crate::subnet::Subnet;

/// A range that is cut into subnets of `size` bits, for networks that ask for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPool {
    pub base: Subnet,
    pub size: u8,
}

impl AddressPool {
    /// The ranges that the field's users know: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16
    /// in pieces of 20 bits.
    pub fn defaults() -> Vec<Self> {
        let pool = |base: [u8; 4], prefix, size| {
            let base = Subnet::new(IpAddr::from(base), prefix).ok()?;
            Some(Self { base, size })
        };
        (17..=31)
            .filter_map(|second| pool([172, second, 0, 0], 16, 16))
            .chain(pool([192, 168, 0, 0], 16, 20))
            .collect()
    }

    fn subnets(self) -> impl Iterator<Item = Subnet> {
        let width = if self.base.is_ipv4() { 32 } else { 128 };
        let bits = self.size.saturating_sub(self.base.prefix()).min(63);
        let step = u32::from(width - self.size.min(width));
        (0..1u128 << bits).filter_map(move |index| {
            let base = self.base.nth(index.checked_shl(step)?)?;
            Subnet::new(base, self.size).ok()
        })
    }
}

/// What is in use already.
#[derive(Debug, Default)]
pub(super) struct Occupied {
    /// Subnets of other networks, and their names.
    pub networks: Vec<(Subnet, String)>,
    /// What the host routes elsewhere.
    pub host: Vec<Subnet>,
}

impl Occupied {
    pub(super) fn holder(&self, subnet: &Subnet) -> Option<&str> {
        self.networks
            .iter()
            .find(|(taken, _)| taken.overlaps(subnet))
            .map(|(_, name)| name.as_str())
    }

    fn free(&self, subnet: &Subnet) -> bool {
        self.holder(subnet).is_none() && !self.host.iter().any(|taken| taken.overlaps(subnet))
    }
}

/// The subnets of a network, and what its maker should be told.
pub(super) fn plan(
    wanted: &NewNetwork,
    pools: &[AddressPool],
    occupied: &Occupied,
) -> Result<(Vec<NetworkSubnet>, Vec<String>)> {
    let (mut subnets, mut warnings) = (Vec::new(), Vec::new());
    for config in &wanted.ipam {
        check_whole(config)?;
    }
    for (v4, enabled) in [(true, wanted.ipv4), (false, wanted.ipv6)] {
        let mut configs = wanted
            .ipam
            .iter()
            .filter(|config| config.subnet.is_some_and(|subnet| subnet.is_ipv4() == v4));
        let config = configs.next();
        if let Some(second) = configs.next().and_then(|config| config.subnet) {
            return Err(invalid(format!(
                "subnet {second}: a network has one subnet of each family"
            )));
        }
        match (enabled, config) {
            (true, Some(config)) => subnets.push(chosen(config, occupied, &mut warnings)?),
            (true, None) => subnets.push(next_free(v4, pools, occupied)?),
            (false, Some(IpamConfig { subnet, .. })) => {
                let subnet = subnet.map(|subnet| subnet.to_string()).unwrap_or_default();
                let family = if v4 { "IPv4" } else { "IPv6" };
                warnings.push(format!(
                    "subnet {subnet} is not used: {family} is not enabled for the network"
                ));
            }
            (false, None) => {}
        }
    }
    Ok((subnets, warnings))
}

/// A subnet of the default pools.
pub(super) fn next_free(
    v4: bool,
    pools: &[AddressPool],
    occupied: &Occupied,
) -> Result<NetworkSubnet> {
    let subnet = pools
        .iter()
        .filter(|pool| pool.base.is_ipv4() == v4)
        .flat_map(|pool| pool.subnets())
        .find(|subnet| occupied.free(subnet))
        .ok_or(Error::PoolsExhausted)?;
    complete(subnet, &IpamConfig::default(), false)
}

pub(super) fn check_whole(config: &IpamConfig) -> Result<()> {
    let bare = config.range.is_none() && config.gateway.is_none() && config.auxiliary.is_empty();
    if config.subnet.is_none() && !bare {
        return Err(invalid(
            "an IP range, gateway or auxiliary address needs the subnet that it is of".to_owned(),
        ));
    }
    Ok(())
}

fn chosen(
    config: &IpamConfig,
    occupied: &Occupied,
    warnings: &mut Vec<String>,
) -> Result<NetworkSubnet> {
    let Some(subnet) = config.subnet else {
        return Err(invalid("a subnet is missing".to_owned()));
    };
    if subnet.last_offset() < 3 || subnet.base().is_multicast() || subnet.base().is_loopback() {
        return Err(invalid(format!(
            "subnet {subnet} has no room for a container"
        )));
    }
    if let Some(network) = occupied.holder(&subnet) {
        return Err(Error::SubnetOverlap {
            subnet,
            network: network.to_owned(),
        });
    }
    if let Some(route) = occupied.host.iter().find(|route| route.overlaps(&subnet)) {
        warnings.push(format!(
            "subnet {subnet} overlaps {route}, which this host routes elsewhere"
        ));
    }
    complete(subnet, config, true)
}

fn complete(subnet: Subnet, config: &IpamConfig, chosen: bool) -> Result<NetworkSubnet> {
    let inside =
        |inner: &Subnet| subnet.contains(inner.base()) && inner.prefix() >= subnet.prefix();
    if let Some(range) = config.range.filter(|range| !inside(range)) {
        return Err(invalid(format!(
            "IP range {range} is not in subnet {subnet}"
        )));
    }
    let mut pool = Pool::within(subnet, config.range);
    let claim = |pool: &mut Pool<()>, what: &str, address: IpAddr| {
        pool.claim(address, &()).map_err(|reason| {
            invalid(match reason {
                crate::addresses::Unavailable::Taken => {
                    format!("{what} {address} is named twice")
                }
                crate::addresses::Unavailable::Unusable => {
                    format!("{what} {address} is no address of subnet {subnet}")
                }
            })
        })
    };
    for address in config.auxiliary.values() {
        claim(&mut pool, "auxiliary address", *address)?;
    }
    let gateway = match config.gateway {
        Some(gateway) => claim(&mut pool, "gateway", gateway).map(|()| gateway)?,
        None => pool.take(&())?,
    };
    Ok(NetworkSubnet {
        subnet,
        range: config.range,
        gateway,
        auxiliary: config.auxiliary.clone(),
        chosen,
        pool: String::new(),
    })
}

fn invalid(reason: String) -> Error {
    Error::NetworkInvalid { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    fn config(text: &str) -> IpamConfig {
        IpamConfig {
            subnet: Some(subnet(text)),
            ..IpamConfig::default()
        }
    }

    fn with(ipam: Vec<IpamConfig>) -> NewNetwork {
        NewNetwork {
            ipam,
            ..NewNetwork::named("n")
        }
    }

    fn occupied(networks: &[&str], host: &[&str]) -> Occupied {
        Occupied {
            networks: networks
                .iter()
                .map(|t| (subnet(t), format!("of {t}")))
                .collect(),
            host: host.iter().map(|t| subnet(t)).collect(),
        }
    }

    #[test]
    fn default_pools_give_the_next_range_that_nobody_has() {
        let pools = AddressPool::defaults();
        let mut taken = occupied(&[], &["172.17.0.0/24", "172.19.0.0/16"]);
        let mut seen = Vec::new();
        while let Ok(found) = next_free(true, &pools, &taken) {
            assert!(!found.chosen && found.subnet.nth(1) == Some(found.gateway));
            taken.networks.push((found.subnet, "n".into()));
            seen.push(found.subnet.to_string());
        }
        assert_eq!(seen[..2], ["172.18.0.0/16", "172.20.0.0/16"]);
        assert_eq!(seen.last().unwrap(), "192.168.240.0/20");
        assert_eq!(seen.len(), 13 + 16);
        let ula = AddressPool {
            base: subnet("fd12:3456:789a::/48"),
            size: 64,
        };
        let taken = occupied(&["fd12:3456:789a::/64"], &[]);
        let found = next_free(false, &[ula], &taken).unwrap();
        assert_eq!(found.subnet, subnet("fd12:3456:789a:1::/64"));
    }

    #[test]
    fn a_subnet_that_another_network_has_is_refused_by_name() {
        for taken in ["10.5.0.0/16", "10.5.1.0/24", "10.0.0.0/8"] {
            let error = plan(
                &with(vec![config("10.5.0.0/16")]),
                &[],
                &occupied(&[taken], &[]),
            );
            let text = error.unwrap_err().to_string();
            assert!(text.contains(&format!("of {taken}")), "{text}");
        }
        let routed = occupied(&[], &["10.0.0.0/8"]);
        let (_, warnings) = plan(&with(vec![config("10.5.0.0/16")]), &[], &routed).unwrap();
        assert!(warnings[0].contains("10.0.0.0/8"), "{warnings:?}");
    }

    #[test]
    fn gateways_are_the_first_of_the_range_unless_named() {
        let with_range = IpamConfig {
            range: Some(subnet("10.5.8.0/24")),
            ..config("10.5.0.0/16")
        };
        let named = IpamConfig {
            gateway: Some("10.5.0.254".parse().unwrap()),
            ..with_range.clone()
        };
        let reserved = IpamConfig {
            auxiliary: [("router".to_owned(), "10.5.0.1".parse().unwrap())].into(),
            ..config("10.5.0.0/16")
        };
        for (config, gateway) in [
            (config("10.5.0.0/16"), "10.5.0.1"),
            (with_range, "10.5.8.0"),
            (named, "10.5.0.254"),
            (reserved, "10.5.0.2"),
        ] {
            let (found, _) = plan(&with(vec![config]), &[], &Occupied::default()).unwrap();
            assert_eq!(found[0].gateway.to_string(), gateway);
        }
    }

    #[test]
    fn ipam_that_does_not_fit_together_is_refused_in_words() {
        let base = config("10.5.0.0/24");
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for (ipam, word) in [
            (vec![config("10.5.0.0/31")], "no room"),
            (vec![config("224.0.0.0/24")], "no room"),
            (vec![base.clone(), config("10.6.0.0/24")], "one subnet"),
            (
                vec![IpamConfig {
                    gateway: Some(address("10.6.0.1")),
                    ..base.clone()
                }],
                "no address of subnet",
            ),
            (
                vec![IpamConfig {
                    gateway: Some(address("10.5.0.255")),
                    ..base.clone()
                }],
                "no address of subnet",
            ),
            (
                vec![IpamConfig {
                    range: Some(subnet("10.5.0.0/16")),
                    ..base.clone()
                }],
                "not in subnet",
            ),
            (
                vec![IpamConfig {
                    gateway: Some(address("10.5.0.9")),
                    auxiliary: [("a".to_owned(), address("10.5.0.9"))].into(),
                    ..base.clone()
                }],
                "named twice",
            ),
            (
                vec![IpamConfig {
                    subnet: None,
                    gateway: Some(address("10.5.0.9")),
                    ..base
                }],
                "needs the subnet",
            ),
        ] {
            let error = plan(&with(ipam), &AddressPool::defaults(), &Occupied::default());
            let text = error.unwrap_err().to_string();
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn families_are_served_as_they_are_enabled() {
        let both = vec![config("fd00:5::/64"), config("10.5.0.0/24")];
        let (v4, warnings) = plan(&with(both.clone()), &[], &Occupied::default()).unwrap();
        assert_eq!((v4.len(), v4[0].subnet), (1, subnet("10.5.0.0/24")));
        assert!(warnings[0].contains("fd00:5::/64"));
        let mut wanted = with(both);
        wanted.ipv6 = true;
        let (found, warnings) = plan(&wanted, &[], &Occupied::default()).unwrap();
        assert_eq!(found[1].gateway.to_string(), "fd00:5::1");
        assert!(found[0].subnet.is_ipv4() && warnings.is_empty());
    }
}
