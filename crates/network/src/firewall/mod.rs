//! Published ports, masquerading and isolation, by nftables tables of our own over raw netlink. A pod
//! is entries in maps, never a rule: the rules are the same for one pod and for a thousand.

mod expression;
mod flows;
mod networks;
mod pods;
mod resolver;
mod table;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use rustix::io::Errno;

pub(crate) use flows::concerned as concerns_flows;
pub(crate) use networks::{NetworksPlan, Owner, Traits};
pub(crate) use pods::Plan;
pub(crate) use resolver::redirect_resolver;
pub(crate) use table::{Element, Entry, Layout};

use crate::error::{Error, Result};
use crate::netlink::{Channel, Refusal, wire};

const GENERATION_ID: u16 = 1;

/// A table and what it ought to hold.
pub(crate) struct Firewall<L: Layout> {
    channel: Channel,
    layout: L,
    entries: HashMap<L::Owner, Vec<Entry>>,
    rules: usize,
    /// The ruleset's generation at which the table was last seen whole.
    seen: Option<u32>,
}

impl<L: Layout> Firewall<L> {
    /// Opens a socket in the calling thread's network namespace, and makes the table with the
    /// entries given. A table left by an earlier daemon is replaced without a gap.
    pub(crate) fn install(layout: L, entries: HashMap<L::Owner, Vec<Entry>>) -> Result<Self> {
        let channel = Channel::open(libc::NETLINK_NETFILTER).map_err(|source| Error::Socket {
            protocol: "netfilter",
            source,
        })?;
        let mut firewall = Self {
            channel,
            layout,
            entries,
            rules: 0,
            seen: None,
        };
        firewall.reinstall()?;
        Ok(firewall)
    }

    /// Adds an owner's entries, all or none; it must not have any.
    pub(crate) fn publish(&mut self, owner: &L::Owner, entries: Vec<Entry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let requests = table::add(&self.layout, entries.iter());
        self.entries.insert(owner.clone(), entries);
        let refusal = match self.commit(requests) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        // Somebody flushed our table: the whole of it is made anew, these entries with it.
        let result = match refusal.errno() {
            Errno::NOENT => self.reinstall(),
            _ => Err(self.error("add to the table", refusal)),
        };
        if result.is_err() {
            self.entries.remove(owner);
        }
        result
    }

    /// Takes an owner's entries back; those that are gone already are no failure.
    pub(crate) fn withdraw(&mut self, owner: &L::Owner) -> Result<()> {
        let Some(entries) = self.entries.remove(owner) else {
            return Ok(());
        };
        match self.commit(table::delete(&self.layout, entries.iter())) {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.errno() == Errno::NOENT => self.reinstall(),
            Err(refusal) => {
                let error = self.error("remove from the table", refusal);
                self.entries.insert(owner.clone(), entries);
                Err(error)
            }
        }
    }

    /// Makes running UDP flows to these ports ask the maps anew; `local` are the host's addresses.
    pub(crate) fn forget_flows(&mut self, elements: &[Element], local: &HashSet<IpAddr>) {
        // Without connection tracking over netlink such a flow moves on when it pauses: no reason
        // to refuse a pod.
        if let Err(refusal) = flows::forget(&mut self.channel, elements, local) {
            tracing::warn!(%refusal, "UDP flows to published ports may go astray for a while");
        }
    }

    /// Restores the table if somebody else changed it; says whether that was needed. Costs one
    /// question as long as nobody changed anything.
    pub(crate) fn heal(&mut self) -> Result<bool> {
        let mut generation = None;
        self.channel
            .list(table::generation(), |payload| {
                generation = wire::attributes(payload.get(4..).unwrap_or(&[]))
                    .find(|(kind, _)| *kind == GENERATION_ID)
                    .and_then(|(_, value)| wire::u32_at(value, 0));
            })
            .map_err(|refusal| self.error("tell the ruleset's generation", refusal))?;
        if generation.is_some() && generation == self.seen {
            return Ok(false);
        }
        let whole = self.whole();
        if !whole {
            self.reinstall()?;
        } else {
            self.seen = generation;
        }
        Ok(!whole)
    }

    /// Removes the table; its absence is success.
    pub(crate) fn remove(&mut self) -> Result<()> {
        match self.commit(vec![table::delete_table(&self.layout.table())]) {
            Err(refusal) if refusal.errno() != Errno::NOENT => {
                Err(self.error("remove the table", refusal))
            }
            _ => Ok(()),
        }
    }

    fn whole(&mut self) -> bool {
        // An unreadable table counts as damaged: making it anew tells what is wrong.
        let table = self.layout.table();
        if self.count(table::list_rules(&table), |_| 1) != Some(self.rules) {
            return false;
        }
        let sets = self.layout.sets();
        let mut wanted = vec![0usize; sets.len()];
        for entry in self.entries.values().flatten() {
            wanted[entry.set()] += entry.elements();
        }
        sets.iter().zip(wanted).all(|(set, wanted)| {
            let listing = table::list_elements(&table, set);
            self.count(listing, listed_elements) == Some(wanted)
        })
    }

    fn count(&mut self, request: wire::Message, each: impl Fn(&[u8]) -> usize) -> Option<usize> {
        let mut count = 0;
        self.channel
            .list(request, |payload| count += each(payload))
            .ok()
            .map(|()| count)
    }

    fn reinstall(&mut self) -> Result<()> {
        let (mut requests, rules) = table::install(&self.layout);
        let all = self.entries.values().flatten();
        requests.extend(table::add(&self.layout, all));
        self.commit(requests)
            .map_err(|refusal| self.error("install the table", refusal))?;
        self.rules = rules;
        Ok(())
    }

    fn commit(&mut self, requests: Vec<wire::Message>) -> std::result::Result<(), Refusal> {
        let (begin, end) = table::bracket();
        self.channel.batch(requests, begin, end)
    }

    fn error(&self, operation: &'static str, source: Refusal) -> Error {
        Error::Kernel {
            operation,
            object: format!("nftables table inet {}", self.layout.table()),
            source,
        }
    }
}

/// How many elements one message of a map's listing holds.
fn listed_elements(payload: &[u8]) -> usize {
    wire::attributes(payload.get(4..).unwrap_or(&[]))
        .filter(|(kind, _)| *kind == 3)
        .map(|(_, list)| wire::attributes(list).count())
        .sum()
}
