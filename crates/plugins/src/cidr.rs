//! An address as networks write it: with the bits of its subnet.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// `10.1.0.5/16`; bits behind the prefix are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix: u8,
}

impl FromStr for Cidr {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let address: IpAddr = address.parse().map_err(drop)?;
        let prefix = prefix.parse().map_err(drop)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        match prefix <= width {
            true => Ok(Self { address, prefix }),
            false => Err(()),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
