//! What an interface has carried, as the kernel counts it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::netlink::{Route, wire};
use crate::threads;

/// Totals since the interface was made, seen from its own namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// One interface of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStats {
    pub name: String,
    pub counters: Counters,
}

/// Reads `struct rtnl_link_stats64`, whose first eight numbers are packets, bytes, errors and
/// drops, received before sent.
pub(crate) fn parse(value: &[u8]) -> Counters {
    let at = |index: usize| wire::u64_at(value, index * 8).unwrap_or(0);
    Counters {
        rx_packets: at(0),
        tx_packets: at(1),
        rx_bytes: at(2),
        tx_bytes: at(3),
        rx_errors: at(4),
        tx_errors: at(5),
        rx_dropped: at(6),
        tx_dropped: at(7),
    }
}

/// The interfaces of each namespace but its loopback; an entry fails alone.
///
/// Blocking: one thread visits all of them, so that a list of many pods costs one thread.
pub fn stats(namespaces: Vec<PathBuf>) -> Result<Vec<Result<Vec<InterfaceStats>>>> {
    threads::run("berth-netstats", move || {
        Ok(namespaces.iter().map(|path| stats_of(path)).collect())
    })
}

fn stats_of(path: &Path) -> Result<Vec<InterfaceStats>> {
    threads::enter_netns(&threads::open_netns(path)?, path)?;
    let refused = |source| Error::Kernel {
        operation: "list interfaces",
        object: path.display().to_string(),
        source,
    };
    let mut route = Route::open().map_err(|source| refused(source.into()))?;
    let links = route.links().map_err(refused)?;
    Ok(links
        .into_iter()
        .filter(|link| !link.loopback)
        .map(|link| InterfaceStats {
            name: link.name,
            counters: link.counters,
        })
        .collect())
}
