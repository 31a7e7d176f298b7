//! The most memory that a process and those below it took together.

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
    looking: JoinHandle<u64>,
}

impl Watch {
    pub fn start(pid: i32) -> Result<Self> {
        // What is resident by now; later looks may miss a process that ends.
        let now = machine::share(pid)?;
        let enough = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&enough);
        let looking = thread::spawn(move || {
            let mut most = now;
            while !until.load(Ordering::Relaxed) {
                most = most.max(together(pid));
                thread::sleep(EVERY);
            }
            most
        });
        Ok(Self { enough, looking })
    }

    /// KiB.
    pub fn end(self) -> Result<u64> {
        self.enough.store(true, Ordering::Relaxed);
        let most = self.looking.join();
        most.map_err(|_| anyhow!("looking at memory panicked"))
    }
}

/// Pages that several share count once in all.
fn together(root: i32) -> u64 {
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
    members.filter_map(|pid| machine::share(pid).ok()).sum()
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
