//! All pumps of a shim, by the process that they serve.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::pump::{Pump, Role};
use crate::poller::Poller;

/// Most bytes of a stream that are moved before the exit of its process is
/// reported: what the largest pipe can hold. Everything that the process itself
/// wrote is below that; more comes only from children that outlive it.
const DRAIN_LEN: usize = 1 << 20;
/// How long a client may take to fetch what is left after `Delete`.
const LINGER: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Pumps {
    poller: Rc<Poller>,
    next: u32,
    pumps: BTreeMap<u32, Pump>,
}

impl Pumps {
    pub fn new(poller: Rc<Poller>) -> Self {
        Self {
            poller,
            next: 0,
            pumps: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, mut pump: Pump) {
        self.next += 1;
        pump.watch(&self.poller, self.next);
        self.pumps.insert(self.next, pump);
    }

    /// Handles readiness of the source of pump `id`.
    pub fn readable(&mut self, id: u32) {
        self.step(id, |pump| {
            pump.read();
            pump.go_on();
        });
    }

    /// Handles readiness of a blocked output of pump `id`.
    pub fn writable(&mut self, id: u32) {
        self.step(id, |pump| {
            pump.write();
            pump.drop_absent_guests();
            pump.go_on();
        });
    }

    fn step(&mut self, id: u32, act: impl FnOnce(&mut Pump)) {
        let Some(pump) = self.pumps.get_mut(&id) else {
            return;
        };
        act(pump);
        if pump.is_done() {
            pump.close(&self.poller);
            self.pumps.remove(&id);
        } else {
            pump.watch(&self.poller, id);
        }
    }

    /// The process has ended: moves what it left in its pipes, so that its
    /// output is delivered before its exit is known. Never waits: a child of it
    /// may hold the pipe for as long as it likes. Its input ends here.
    pub fn drain(&mut self, owner: u32) {
        self.remove_where(|pump| pump.owner == owner && pump.role == Role::Input);
        for id in self.ids(owner) {
            self.step(id, |pump| {
                let mut moved = 0;
                while moved < DRAIN_LEN {
                    match pump.read() {
                        0 => break,
                        count => moved += count,
                    }
                }
            });
        }
    }

    /// No more input comes: what is in the FIFO is still delivered.
    pub fn finish_input(&mut self, owner: u32) {
        for id in self.ids(owner) {
            self.step(id, |pump| {
                if pump.role == Role::Input {
                    pump.finish();
                }
            });
        }
    }

    /// The process is being deleted: its pumps end, except that output which an
    /// attached reader has not fetched yet may still go to it.
    pub fn retire(&mut self, owner: u32) {
        let deadline = Instant::now() + LINGER;
        for id in self.ids(owner) {
            if let Some(pump) = self.pumps.get_mut(&id) {
                pump.linger = Some(deadline);
            }
        }
        self.remove_where(|pump| pump.owner == owner && !pump.has_pending());
    }

    /// Adds a client to the output pump of that role. `false`: there is none.
    pub fn attach(&mut self, owner: u32, role: Role, client: OwnedFd) -> bool {
        let mut all = self.pumps.iter_mut();
        let found = all.find(|(_, pump)| pump.owner == owner && pump.role == role);
        found.is_some_and(|(id, pump)| {
            pump.add_guest(client, &self.poller, *id);
            true
        })
    }

    /// The next moment at which [`Pumps::expire`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.pumps.values().filter_map(Pump::deadline).min()
    }

    pub fn expire(&mut self, now: Instant) {
        let due: Vec<u32> = self
            .pumps
            .iter()
            .filter(|(_, pump)| pump.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.step(id, |pump| pump.expire(now));
        }
        self.remove_where(|pump| pump.linger.is_some_and(|linger| linger <= now));
    }

    pub fn is_empty(&self) -> bool {
        self.pumps.is_empty()
    }

    fn ids(&self, owner: u32) -> Vec<u32> {
        let owned = self.pumps.iter().filter(|(_, pump)| pump.owner == owner);
        owned.map(|(id, _)| *id).collect()
    }

    fn remove_where(&mut self, condition: impl Fn(&Pump) -> bool) {
        self.pumps.retain(|_, pump| {
            let remove = condition(pump);
            if remove {
                pump.close(&self.poller);
            }
            !remove
        });
    }
}
