//! Host-local addresses: which of a subnet's are taken, and by whom. Memory only; the records on
//! disk are the truth from which it is rebuilt.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use berth_names::SandboxId;

use crate::error::{Error, Result};
use crate::subnet::Subnet;

/// The base is the network's own address, the next one is the gateway's.
const FIRST: u128 = 2;

/// The addresses of one subnet.
#[derive(Debug)]
pub(crate) struct Pool {
    subnet: Subnet,
    taken: HashMap<IpAddr, SandboxId>,
    /// Where the next search begins. It moves on, so that an address that was just given back rests
    /// as long as possible: neighbours remember it, and its namespace may still be dying.
    next: u128,
}

impl Pool {
    pub(crate) fn new(subnet: Subnet) -> Self {
        Self {
            subnet,
            taken: HashMap::new(),
            next: FIRST,
        }
    }

    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    pub(crate) fn take(&mut self, owner: &SandboxId) -> Result<IpAddr> {
        let exhausted = || Error::AddressesExhausted {
            subnet: self.subnet,
        };
        let last = self.last();
        let size = (last + 1)
            .checked_sub(FIRST)
            .filter(|size| *size > 0)
            .ok_or_else(exhausted)?;
        // One more than what is taken is enough of a search: one of them must be free.
        let tries = size.min(self.taken.len() as u128 + 1);
        let start = self.next.clamp(FIRST, last) - FIRST;
        for step in 0..tries {
            let offset = FIRST + (start + step) % size;
            let Some(address) = self.subnet.nth(offset) else {
                continue;
            };
            if let Entry::Vacant(free) = self.taken.entry(address) {
                free.insert(owner.clone());
                self.next = FIRST + (offset - FIRST + 1) % size;
                return Ok(address);
            }
        }
        Err(exhausted())
    }

    /// Notes what a record says is taken; addresses of other subnets are none of this pool's.
    pub(crate) fn restore(&mut self, address: IpAddr, owner: &SandboxId) {
        if let Some(offset) = self.subnet.offset_of(address) {
            self.taken.insert(address, owner.clone());
            self.next = self.next.max(offset.saturating_add(1));
        }
    }

    pub(crate) fn release(&mut self, owner: &SandboxId) {
        self.taken.retain(|_, holder| holder != owner);
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.len()
    }

    /// Offset of the last address that a pod may have: IPv4 keeps the broadcast address.
    fn last(&self) -> u128 {
        let last = self.subnet.last_offset();
        if self.subnet.is_ipv4() {
            last.saturating_sub(1)
        } else {
            last.min(1 << 64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(byte: u8) -> SandboxId {
        SandboxId::from_random([byte; 32])
    }

    fn pool(text: &str) -> Pool {
        Pool::new(text.parse().unwrap())
    }

    #[test]
    fn no_address_is_handed_out_twice_and_the_last_one_is_not_missed() {
        let mut pool = pool("10.0.0.0/28");
        let mut seen = std::collections::HashSet::new();
        for byte in 0..13 {
            assert!(seen.insert(pool.take(&owner(byte)).unwrap()));
        }
        assert!(!seen.contains(&"10.0.0.1".parse().unwrap()));
        assert!(seen.contains(&"10.0.0.14".parse().unwrap()));
        assert!(matches!(
            pool.take(&owner(99)),
            Err(Error::AddressesExhausted { .. })
        ));
        pool.release(&owner(7));
        assert_eq!(pool.take(&owner(99)).unwrap().to_string(), "10.0.0.9");
    }

    #[test]
    fn an_address_rests_before_it_is_used_again() {
        let mut pool = pool("10.0.0.0/29");
        for round in 0..50u8 {
            let first = pool.take(&owner(round)).unwrap();
            pool.release(&owner(round));
            let second = pool.take(&owner(round)).unwrap();
            pool.release(&owner(round));
            assert_ne!(first, second);
        }
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn restored_addresses_stay_taken() {
        let mut pool = pool("10.0.0.0/29");
        pool.restore("10.0.0.2".parse().unwrap(), &owner(1));
        pool.restore("10.0.0.6".parse().unwrap(), &owner(2));
        pool.restore("192.168.0.9".parse().unwrap(), &owner(3));
        let rest: Vec<_> = (3..6)
            .map(|byte| pool.take(&owner(byte)).unwrap())
            .collect();
        assert_eq!(
            rest.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.3", "10.0.0.4", "10.0.0.5"]
        );
        assert!(pool.take(&owner(9)).is_err());
    }

    #[test]
    fn subnets_without_room_say_so() {
        for text in [
            "10.0.0.0/31",
            "10.0.0.0/32",
            "10.0.0.0/30",
            "fd00::/127",
            "fd00::/64",
        ] {
            let mut pool = pool(text);
            let got = pool.take(&owner(1));
            assert_eq!(
                got.is_ok(),
                matches!(text, "10.0.0.0/30" | "fd00::/64"),
                "{text}"
            );
        }
    }
}
