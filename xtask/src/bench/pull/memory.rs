//! The most memory that a process took, and it and those below it together.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::bench::machine;

const EVERY: Duration = Duration::from_millis(20);

/// Looks until its end.
pub struct Watch {
    enough: Arc<AtomicBool>,
    looking: JoinHandle<Peak>,
}

/// KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peak {
    pub own: u64,
    pub together: u64,
}

impl Peak {
    pub fn max(self, other: Self) -> Self {
        Self {
            own: self.own.max(other.own),
            together: self.together.max(other.together),
        }
    }
}

impl Watch {
    pub fn start(pid: i32) -> Result<Self> {
        // What is resident by now; later looks may miss a process that ends.
        let own = machine::share(pid)?;
        let now = Peak { own, together: own };
        let enough = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&enough);
        let looking = thread::spawn(move || {
            let mut most = now;
            while !until.load(Ordering::Relaxed) {
                most = most.max(look(pid));
                thread::sleep(EVERY);
            }
            most
        });
        Ok(Self { enough, looking })
    }

    pub fn end(self) -> Result<Peak> {
        self.enough.store(true, Ordering::Relaxed);
        let most = self.looking.join();
        most.map_err(|_| anyhow!("looking at memory panicked"))
    }
}

/// Pages that several share count once in all.
fn look(root: i32) -> Peak {
    let parents = parents().unwrap_or_default();
    let is_below = |mut pid: i32| {
        while let Some(parent) = parents.get(&pid) {
            if pid == root {
                return true;
            }
            pid = *parent;
        }
        false
    };
    let members = parents.keys().copied().filter(|pid| is_below(*pid));
    let share = |pid| machine::share(pid).unwrap_or_default();
    Peak {
        own: share(root),
        together: members.map(share).sum(),
    }
}

fn parents() -> Result<BTreeMap<i32, i32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let name = entry.context("reading /proc")?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Ok(parent) = machine::parent(pid)
        {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}
