//! Host-local addresses: which of a subnet's are taken, and by whom. Memory only; the records on
//! disk are the truth from which it is rebuilt.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::subnet::Subnet;

/// The base is the network's own address, the next one is the gateway's.
const FIRST: u128 = 2;
/// More addresses than this are never looked through.
const REACH: u128 = 1 << 64;

/// Which of the free addresses is given next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// An address that was just given back rests as long as possible: neighbours remember it, and
    /// its namespace may still be dying.
    Rested,
    /// The lowest: a container that is started again has the address that it had.
    Lowest,
}

/// The addresses of one subnet.
#[derive(Debug)]
pub(crate) struct Pool<O> {
    subnet: Subnet,
    /// Offsets of the first and the last address that are given unasked.
    first: u128,
    last: u128,
    order: Order,
    taken: HashMap<IpAddr, O>,
    /// Where the next search begins.
    next: u128,
}

/// Why a particular address cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unavailable {
    Taken,
    /// Not of the subnet, or its own or its broadcast address.
    Unusable,
}

impl<O: Clone + PartialEq> Pool<O> {
    /// A pod network's: the address after the base is the gateway's.
    pub(crate) fn new(subnet: Subnet) -> Self {
        Self::spanning(subnet, FIRST, subnet.last_offset(), Order::Rested)
    }

    /// A pool that gives addresses of `range` (which lies in `subnet`) when not asked for others.
    /// The gateway's has to be claimed.
    pub(crate) fn within(subnet: Subnet, range: Option<Subnet>) -> Self {
        let range = range.unwrap_or(subnet);
        let base = subnet.offset_of(range.base()).unwrap_or(0);
        let end = base.saturating_add(range.last_offset());
        Self::spanning(subnet, base.max(1), end, Order::Lowest)
    }

    fn spanning(subnet: Subnet, first: u128, end: u128, order: Order) -> Self {
        let usable = last_usable(subnet).min(first.saturating_add(REACH));
        Self {
            subnet,
            first,
            last: end.min(usable),
            order,
            taken: HashMap::new(),
            next: first,
        }
    }

    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    pub(crate) fn take(&mut self, owner: &O) -> Result<IpAddr> {
        let exhausted = || Error::AddressesExhausted {
            subnet: self.subnet,
        };
        let first = self.first;
        let size = (self.last + 1)
            .checked_sub(first)
            .filter(|size| *size > 0)
            .ok_or_else(exhausted)?;
        // One more than what is taken is enough of a search: one of them must be free.
        let tries = size.min(self.taken.len() as u128 + 1);
        let start = self.next.clamp(first, self.last) - first;
        for step in 0..tries {
            let offset = first + (start + step) % size;
            let Some(address) = self.subnet.nth(offset) else {
                continue;
            };
            if let Entry::Vacant(free) = self.taken.entry(address) {
                free.insert(owner.clone());
                self.next = first + (offset - first + 1) % size;
                return Ok(address);
            }
        }
        Err(exhausted())
    }

    /// Takes one particular address of the subnet, in or out of the range.
    pub(crate) fn claim(
        &mut self,
        address: IpAddr,
        owner: &O,
    ) -> std::result::Result<(), Unavailable> {
        let offset = self.subnet.offset_of(address);
        if !offset.is_some_and(|offset| (1..=last_usable(self.subnet)).contains(&offset)) {
            return Err(Unavailable::Unusable);
        }
        match self.taken.entry(address) {
            Entry::Occupied(_) => Err(Unavailable::Taken),
            Entry::Vacant(free) => {
                free.insert(owner.clone());
                Ok(())
            }
        }
    }

    /// Notes what a record says is taken; addresses of other subnets are none of this pool's.
    pub(crate) fn restore(&mut self, address: IpAddr, owner: &O) {
        if let Some(offset) = self.subnet.offset_of(address) {
            self.taken.insert(address, owner.clone());
            if self.order == Order::Rested {
                self.next = self.next.max(offset.saturating_add(1));
            }
        }
    }

    pub(crate) fn release(&mut self, owner: &O) {
        let (subnet, order, next) = (self.subnet, self.order, &mut self.next);
        self.taken.retain(|address, holder| {
            let kept = holder != owner;
            if let (false, Order::Lowest, Some(offset)) = (kept, order, subnet.offset_of(*address))
            {
                *next = (*next).min(offset);
            }
            kept
        });
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.len()
    }
}

/// Offset of the last address that anybody may have: IPv4 keeps the broadcast address.
fn last_usable(subnet: Subnet) -> u128 {
    let last = subnet.last_offset();
    if subnet.is_ipv4() {
        last.saturating_sub(1)
    } else {
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_names::SandboxId;

    fn owner(byte: u8) -> SandboxId {
        SandboxId::from_random([byte; 32])
    }

    fn pool(text: &str) -> Pool<SandboxId> {
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

    #[test]
    fn the_lowest_free_address_of_the_range_is_given_and_any_can_be_claimed() {
        let range = Some("10.0.0.16/29".parse().unwrap());
        let mut pool = Pool::within("10.0.0.0/24".parse().unwrap(), range);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        pool.claim(address("10.0.0.16"), &0).unwrap();
        for owner in 1..=7 {
            assert_eq!(
                pool.take(&owner).unwrap(),
                address(&format!("10.0.0.{}", 16 + owner))
            );
        }
        assert!(pool.take(&8).is_err(), "the range has eight addresses");
        pool.claim(address("10.0.0.200"), &8).unwrap();
        for (wanted, refusal) in [
            ("10.0.0.200", Unavailable::Taken),
            ("10.0.0.0", Unavailable::Unusable),
            ("10.0.0.255", Unavailable::Unusable),
            ("10.0.1.1", Unavailable::Unusable),
            ("fd00::1", Unavailable::Unusable),
        ] {
            assert_eq!(pool.claim(address(wanted), &9), Err(refusal), "{wanted}");
        }
        pool.release(&5);
        pool.release(&2);
        assert_eq!(pool.take(&9).unwrap(), address("10.0.0.18"));
        assert_eq!(pool.take(&9).unwrap(), address("10.0.0.21"));
    }
}
