//! Published ports and masquerading, by one nftables table of our own over raw netlink. A pod is
//! entries in maps, never a rule: the rules are the same for one pod and for a thousand.

mod expression;
mod flows;
mod table;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use berth_names::SandboxId;
use rustix::io::Errno;

pub(crate) use flows::concerned as concerns_flows;
pub(crate) use table::{Element, Plan};

use crate::error::{Error, Result};
use crate::netlink::{Channel, Refusal, wire};

const GENERATION_ID: u16 = 1;

/// The table and what it ought to hold.
pub(crate) struct Firewall {
    channel: Channel,
    plan: Plan,
    elements: HashMap<SandboxId, Vec<Element>>,
    rules: usize,
    /// The ruleset's generation at which the table was last seen whole.
    seen: Option<u32>,
}

impl Firewall {
    /// Opens a socket in the calling thread's network namespace, and makes the table with the
    /// entries given. A table left by an earlier daemon is replaced without a gap.
    pub(crate) fn install(plan: Plan, elements: HashMap<SandboxId, Vec<Element>>) -> Result<Self> {
        let channel = Channel::open(libc::NETLINK_NETFILTER).map_err(|source| Error::Socket {
            protocol: "netfilter",
            source,
        })?;
        let mut firewall = Self {
            channel,
            plan,
            elements,
            rules: 0,
            seen: None,
        };
        firewall.reinstall()?;
        Ok(firewall)
    }

    /// Publishes a pod's ports, all or none.
    pub(crate) fn publish(&mut self, sandbox: &SandboxId, elements: Vec<Element>) -> Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        let requests = self.plan.add_elements(&elements);
        self.elements.insert(sandbox.clone(), elements);
        let refusal = match self.commit(requests) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        // Somebody flushed our table: the whole of it is made anew, this pod's entries with it.
        let result = match refusal.errno() {
            Errno::NOENT => self.reinstall(),
            _ => Err(self.error("publish the pod's ports", refusal)),
        };
        if result.is_err() {
            self.elements.remove(sandbox);
        }
        result
    }

    /// Takes a pod's ports back; entries that are gone already are no failure.
    pub(crate) fn withdraw(&mut self, sandbox: &SandboxId) -> Result<()> {
        let Some(elements) = self.elements.remove(sandbox) else {
            return Ok(());
        };
        match self.commit(self.plan.delete_elements(&elements)) {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.errno() == Errno::NOENT => self.reinstall(),
            Err(refusal) => {
                let error = self.error("withdraw the pod's ports", refusal);
                self.elements.insert(sandbox.clone(), elements);
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
        match self.commit(vec![self.plan.remove()]) {
            Err(refusal) if refusal.errno() != Errno::NOENT => {
                Err(self.error("remove the table", refusal))
            }
            _ => Ok(()),
        }
    }

    fn whole(&mut self) -> bool {
        // An unreadable table counts as damaged: making it anew tells what is wrong.
        if self.count(self.plan.list_rules(), |_| 1) != Some(self.rules) {
            return false;
        }
        let mut wanted = [0usize; table::MAPS.len()];
        for element in self.elements.values().flatten() {
            wanted[element.map()] += 1;
        }
        table::MAPS.iter().zip(wanted).all(|(map, wanted)| {
            self.count(self.plan.list_elements(map), listed_elements) == Some(wanted)
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
        let (mut requests, rules) = self.plan.install();
        let all: Vec<_> = self.elements.values().flatten().copied().collect();
        requests.extend(self.plan.add_elements(&all));
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
            object: format!("nftables table inet {}", self.plan.table()),
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
