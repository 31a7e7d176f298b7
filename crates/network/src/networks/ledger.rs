//! What plugins were asked for, and have to be asked to take back.
//!
//! ```text
//! <record_dir>/asked/<network or endpoint id>.json    synced: plugins outlive the boot
//! ```
//!
//! A step is on disk before its plugin hears of it. An entry whose network or endpoint is not there
//! is given back from its last step to its first: that undoes what failed or was cut short, and
//! whatever a daemon that was killed has left.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_names::{EndpointId, NetworkId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::store::{failed, load, make_directory, remove};
use crate::error::Result;
use crate::record::write_durably;

/// All steps of one network, or of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub network: NetworkId,
    /// `None`: these are the network's own.
    pub endpoint: Option<EndpointId>,
    /// The plugin whose network it is; empty for ours.
    pub driver: String,
    /// The plugin that gives its addresses; empty for ours.
    pub ipam: String,
    /// As they were asked for.
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Step {
    /// `None` until its plugin has answered.
    Pool {
        id: Option<String>,
    },
    /// The same, where any address will do.
    Address {
        pool: String,
        address: Option<IpAddr>,
    },
    Network,
    Endpoint,
    /// Ours: an interface of a plugin's went into a container.
    Interface {
        netns: PathBuf,
        outside: String,
    },
    Join,
    WayOut,
}

impl Entry {
    pub(super) fn owner(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => endpoint.to_string(),
            None => self.network.to_string(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Ledger {
    directory: PathBuf,
    entries: Mutex<BTreeMap<String, Kept>>,
}

#[derive(Debug)]
struct Kept {
    network: NetworkId,
    endpoint: Option<EndpointId>,
    /// Locked for as long as it is given back.
    entry: Arc<Mutex<Entry>>,
}

impl From<Entry> for Kept {
    fn from(entry: Entry) -> Self {
        Self {
            network: entry.network.clone(),
            endpoint: entry.endpoint.clone(),
            entry: Arc::new(Mutex::new(entry)),
        }
    }
}

impl Ledger {
    pub(super) fn open(records: &Path) -> Result<Self> {
        let directory = records.join("asked");
        make_directory(&directory)?;
        let entries = load::<Entry>(&directory)?.into_iter();
        let entries = entries.map(|entry| (entry.owner(), Kept::from(entry)));
        Ok(Self {
            entries: Mutex::new(entries.collect()),
            directory,
        })
    }

    pub(super) fn get(&self, owner: &str) -> Option<Arc<Mutex<Entry>>> {
        let entries = self.entries.lock();
        entries.get(owner).map(|kept| Arc::clone(&kept.entry))
    }

    /// Every owner and its network; endpoints before the networks that they are on.
    pub(super) fn owners(&self) -> Vec<(NetworkId, Option<EndpointId>)> {
        let entries = self.entries.lock();
        let mut owners: Vec<_> = (entries.values())
            .map(|kept| (kept.network.clone(), kept.endpoint.clone()))
            .collect();
        owners.sort_by_key(|(_, endpoint)| endpoint.is_none());
        owners
    }

    /// Takes up an entry; nothing is on disk before its first step.
    pub(super) fn begin(&self, entry: Entry) {
        self.entries.lock().insert(entry.owner(), entry.into());
    }

    /// Writes one more step down.
    pub(super) fn add(&self, owner: &str, step: Step) -> Result<()> {
        self.change(owner, |steps| steps.push(step))
    }

    /// The last step with what its plugin has answered.
    pub(super) fn answered(&self, owner: &str, step: Step) -> Result<()> {
        self.change(owner, |steps| {
            steps.pop();
            steps.push(step);
        })
    }

    pub(super) fn change(&self, owner: &str, change: impl FnOnce(&mut Vec<Step>)) -> Result<()> {
        let Some(entry) = self.get(owner) else {
            return Ok(());
        };
        let mut entry = entry.lock();
        change(&mut entry.steps);
        self.write(&entry)
    }

    pub(super) fn write(&self, entry: &Entry) -> Result<()> {
        write_durably(&self.path(&entry.owner()), entry)
    }

    pub(super) fn forget(&self, owner: &str) -> Result<()> {
        remove(&self.path(owner))?;
        self.entries.lock().remove(owner);
        std::fs::File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|source| failed("sync", &self.directory, source))
    }

    fn path(&self, owner: &str) -> PathBuf {
        self.directory.join(format!("{owner}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_on_disk_at_once_and_read_back_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let (network, endpoint) = (
            NetworkId::from_random([1; 32]),
            EndpointId::from_random([2; 32]),
        );
        let entry = |endpoint| Entry {
            network: network.clone(),
            endpoint,
            driver: "loom".to_owned(),
            ipam: String::new(),
            steps: Vec::new(),
        };
        let ledger = Ledger::open(dir.path()).unwrap();
        ledger.begin(entry(None));
        ledger
            .add(network.as_str(), Step::Pool { id: None })
            .unwrap();
        let reopened = Ledger::open(dir.path()).unwrap();
        let steps = |ledger: &Ledger, owner: &str| ledger.get(owner).unwrap().lock().steps.clone();
        assert_eq!(
            steps(&reopened, network.as_str()),
            [Step::Pool { id: None }]
        );
        let id = Some("p".to_owned());
        ledger
            .answered(network.as_str(), Step::Pool { id })
            .unwrap();
        ledger.add(network.as_str(), Step::Network).unwrap();
        ledger.begin(entry(Some(endpoint.clone())));
        ledger.add(endpoint.as_str(), Step::Endpoint).unwrap();
        ledger.add(endpoint.as_str(), Step::Join).unwrap();

        let reopened = Ledger::open(dir.path()).unwrap();
        let owners = reopened.owners();
        assert_eq!(owners.len(), 2);
        assert_eq!(owners[0].1.as_ref(), Some(&endpoint), "endpoints first");
        let of_network = steps(&reopened, network.as_str());
        assert!(matches!(
            &of_network[..],
            [Step::Pool { id: Some(_) }, Step::Network]
        ));
        assert_eq!(
            steps(&reopened, endpoint.as_str()),
            [Step::Endpoint, Step::Join]
        );
        reopened.forget(endpoint.as_str()).unwrap();
        assert_eq!(Ledger::open(dir.path()).unwrap().owners().len(), 1);
    }
}
