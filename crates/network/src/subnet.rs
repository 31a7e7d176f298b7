//! Subnets in CIDR notation, and the arithmetic on them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a subnet.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a subnet such as 10.88.0.0/16")]
pub struct SubnetError {
    text: String,
}

/// A range of addresses with a common prefix; bits behind the prefix are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// The subnet of `prefix` bits that holds `address`.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, SubnetError> {
        if prefix > width(address) {
            return Err(SubnetError {
                text: format!("{address}/{prefix}"),
            });
        }
        let mask = mask(width(address), prefix);
        Ok(Self {
            base: with_bits(address, bits(address) & mask),
            prefix,
        })
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The lowest address: the network's own.
    pub fn base(&self) -> IpAddr {
        self.base
    }

    pub fn is_ipv4(&self) -> bool {
        self.base.is_ipv4()
    }

    /// The address `offset` places above the base; `None` outside the subnet.
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        (offset <= self.last_offset()).then(|| with_bits(self.base, bits(self.base) + offset))
    }

    /// How far `address` lies above the base; `None` outside the subnet.
    pub fn offset_of(&self, address: IpAddr) -> Option<u128> {
        self.contains(address)
            .then(|| bits(address) - bits(self.base))
    }

    /// Offset of the highest address (IPv4: the broadcast address).
    pub fn last_offset(&self) -> u128 {
        !mask(width(self.base), self.prefix) & mask(width(self.base), width(self.base))
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4()
            && bits(address) & mask(width(address), self.prefix) == bits(self.base)
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(width: u8, prefix: u8) -> u128 {
    let all = if width == 32 {
        u128::from(u32::MAX)
    } else {
        u128::MAX
    };
    all & !all.checked_shr(prefix.into()).unwrap_or(0)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// `number` as an address of the same family as `like`.
fn with_bits(like: IpAddr, number: u128) -> IpAddr {
    match like {
        // Masked to 32 bits by every caller.
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let fault = || SubnetError {
            text: text.chars().take(64).collect(),
        };
        let (address, prefix) = text.split_once('/').ok_or_else(fault)?;
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        Self::new(address, prefix.parse().map_err(|_| fault())?).map_err(|_| fault())
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;
    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_knows_its_first_and_last_address() {
        for (text, base, second, last) in [
            ("10.88.7.9/16", "10.88.0.0", "10.88.0.2", "10.88.255.255"),
            (
                "192.168.1.0/29",
                "192.168.1.0",
                "192.168.1.2",
                "192.168.1.7",
            ),
            ("0.0.0.0/0", "0.0.0.0", "0.0.0.2", "255.255.255.255"),
            (
                "fd00:1::/64",
                "fd00:1::",
                "fd00:1::2",
                "fd00:1::ffff:ffff:ffff:ffff",
            ),
        ] {
            let found = subnet(text);
            assert_eq!(found.base(), base.parse::<IpAddr>().unwrap());
            assert_eq!(found.nth(2), Some(second.parse().unwrap()));
            assert_eq!(found.nth(found.last_offset()), Some(last.parse().unwrap()));
            assert_eq!(
                found.offset_of(last.parse().unwrap()),
                Some(found.last_offset())
            );
            assert_eq!(
                found
                    .last_offset()
                    .checked_add(1)
                    .and_then(|o| found.nth(o)),
                None
            );
        }
    }

    #[test]
    fn overlap_is_seen_in_either_direction_and_never_across_families() {
        assert!(subnet("10.0.0.0/8").overlaps(&subnet("10.88.0.0/16")));
        assert!(subnet("10.88.0.0/16").overlaps(&subnet("10.0.0.0/8")));
        assert!(!subnet("10.88.0.0/16").overlaps(&subnet("10.89.0.0/16")));
        assert!(!subnet("0.0.0.0/0").overlaps(&subnet("fd00::/64")));
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "x/8",
            "10.0.0.0/-1",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text:?} was taken");
        }
    }
}
