//! What earlier builds made, by what it was made of. Kept over restarts; times of files have no
//! part in it.

use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_metadata::{Batch, Store, schema};
use berth_names::Digest;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// The outcome of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The image that ends with the step's layer; none where it changed the config alone.
    pub image: Option<Digest>,
    /// When, as its image says (RFC 3339).
    pub created: String,
    /// Seconds since 1970.
    pub used: u64,
    /// It is what somebody asked for, and not only a step on the way.
    #[serde(default)]
    pub is_result: bool,
}

/// Every outcome that is known.
pub struct Cache {
    store: Store,
    made: RwLock<HashMap<Digest, Made>>,
}

impl Cache {
    pub fn open(store: Store) -> Result<Self> {
        let found = store.scan(schema::builds::<Made>())?.records;
        Ok(Self {
            made: RwLock::new(found.into_iter().collect()),
            store,
        })
    }

    pub fn get(&self, key: &Digest) -> Option<Made> {
        self.made.read().get(key).cloned()
    }

    /// Notes an outcome, or that one was of use.
    pub fn put(&self, key: &Digest, made: Made) {
        let mut batch = Batch::new();
        match batch.put(schema::builds(), key, &made) {
            Ok(_) => self.store.commit_lazily(batch),
            Err(error) => tracing::warn!(%error, "a step's outcome is not kept"),
        }
        self.made.write().insert(key.clone(), made);
    }

    pub fn forget(&self, keys: &[Digest]) {
        let mut batch = Batch::new();
        let mut made = self.made.write();
        for key in keys {
            batch.remove(schema::builds::<Made>(), key);
            made.remove(key);
        }
        drop(made);
        self.store.commit_lazily(batch);
    }

    /// Images that are only steps on the way to others.
    pub fn steps(&self) -> HashSet<Digest> {
        let made = self.made.read();
        let images = |is_result: bool| {
            let of_kind = made
                .values()
                .filter(move |made| made.is_result == is_result);
            of_kind.filter_map(|made| made.image.clone())
        };
        let results: HashSet<Digest> = images(true).collect();
        images(false)
            .filter(|image| !results.contains(image))
            .collect()
    }

    pub fn all(&self) -> Vec<(Digest, Made)> {
        let made = self.made.read();
        made.iter()
            .map(|(key, made)| (key.clone(), made.clone()))
            .collect()
    }
}

pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
