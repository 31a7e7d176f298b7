//! Mark and sweep: what no image, lease or snapshot needs goes.
//!
//! The sweep takes everything that nobody holds out of reach first, marks second, and gives back
//! what is marked. A pull that ends in between has written its record by then; one that begins in
//! between waits the moment until its content is given back or gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use berth_metadata::schema::LEASES;
use berth_names::{ChainId, Digest};

use crate::holds::{Doom, Item};
use crate::images::{Images, Shared, blocking};
use crate::{Error, Result};

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: u64,
    pub layers: u64,
    /// Partial blobs that nobody resumed.
    pub partials: u64,
    /// Items that could not be removed; the next collection tries again.
    pub failures: u64,
}

impl Images {
    /// Removes what nothing needs. Safe beside pulls and everything else; runs one at a time.
    ///
    /// # Errors
    /// Only if it cannot be told what is needed; then nothing is removed.
    pub async fn collect(&self) -> Result<Collected> {
        collect(&self.shared, Leftovers::KeepRecent).await
    }
}

/// What becomes of partial blobs that nobody works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// Those of the last hours may be resumed.
    KeepRecent,
    /// The disk is full.
    RemoveAll,
}

impl Shared {
    /// Collects soon, without anybody waiting. Requests that come together are one.
    pub(crate) fn collect_behind(self: &Arc<Self>, leftovers: Leftovers) {
        let is_new = self.collecting.want();
        if !is_new && leftovers == Leftovers::KeepRecent {
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = collect(&shared, leftovers).await {
                tracing::warn!(
                    error = error.report(),
                    "unused image content was not collected"
                );
            }
        });
    }
}

async fn collect(shared: &Arc<Shared>, leftovers: Leftovers) -> Result<Collected> {
    let _turn = shared.collecting.begin().await;
    let work = Arc::clone(shared);
    let sweeping = move || {
        let mut collected = sweep(&work)?;
        let keep = match leftovers {
            Leftovers::KeepRecent => work.config.keep_partials,
            Leftovers::RemoveAll => Duration::ZERO,
        };
        sweep_partials(&work, keep, &mut collected)?;
        Ok(collected)
    };
    let begin = Instant::now();
    let outcome = blocking("collect image content", sweeping).await;
    shared.meters.collected(begin, &outcome);
    let collected = outcome?;
    if collected != Collected::default() {
        tracing::info!(?collected, "collected image content");
    }
    Ok(collected)
}

fn sweep(shared: &Shared) -> Result<Collected> {
    let blobs = shared
        .content
        .list()
        .map_err(Error::content("list blobs"))?;
    let layers = shared
        .snapshotter
        .layers()
        .map_err(Error::snapshots("list layers"))?;
    let blobs = blobs.into_iter().map(|blob| Item::Blob(blob.digest));
    let layers = layers.into_iter().map(|layer| Item::Layer(layer.id));
    let doomed: Vec<Doom> = blobs
        .chain(layers)
        .filter_map(|item| shared.holds.doom(item))
        .collect();

    let needed = Needed::mark(shared)?;
    let (spared, doomed): (Vec<_>, Vec<_>) = doomed
        .into_iter()
        .partition(|doom| needed.contains(&doom.item));
    drop(spared);
    berth_faults::passing("collect.after-mark");

    let mut collected = Collected::default();
    for doom in doomed {
        berth_faults::passing("collect.before-item");
        match remove(shared, &doom.item) {
            Ok(()) => match doom.item {
                Item::Blob(_) => collected.blobs += 1,
                Item::Layer(_) => collected.layers += 1,
            },
            Err(error) => {
                collected.failures += 1;
                tracing::warn!(error = error.report(), "image content stays for now");
            }
        }
    }
    berth_faults::passing("collect.before-purge");
    // The layers are out of sight; their files go now.
    if let Err(error) = shared.snapshotter.purge_trash() {
        collected.failures += 1;
        tracing::warn!(%error, "removed layers stay on disk for now");
    }
    Ok(collected)
}

fn remove(shared: &Shared, item: &Item) -> Result<()> {
    match item {
        Item::Blob(digest) => shared
            .content
            .remove(digest)
            .map(drop)
            .map_err(Error::content("remove blob")),
        Item::Layer(chain) => shared
            .snapshotter
            .remove_layer(chain)
            .map_err(Error::layer("remove", chain)),
    }
}

/// Partial blobs of pulls that nobody tried again.
fn sweep_partials(shared: &Shared, keep: Duration, collected: &mut Collected) -> Result<()> {
    let partials = shared
        .content
        .partials()
        .map_err(Error::content("list partial blobs"))?;
    for partial in partials {
        // A clock that was set back makes no partial old.
        let age = SystemTime::now()
            .duration_since(partial.modified)
            .unwrap_or(Duration::ZERO);
        if age < keep {
            continue;
        }
        let Some(_doom) = shared.holds.doom(Item::Blob(partial.digest.clone())) else {
            continue;
        };
        match shared.content.remove_partial(&partial.digest) {
            Ok(_) => collected.partials += 1,
            Err(berth_content::Error::Busy(_)) => {}
            Err(error) => {
                collected.failures += 1;
                tracing::warn!(%error, "a partial blob stays for now");
            }
        }
    }
    Ok(())
}

#[derive(Default)]
struct Needed {
    blobs: HashSet<Digest>,
    layers: HashSet<ChainId>,
}

impl Needed {
    fn mark(shared: &Shared) -> Result<Self> {
        let mut needed = Self::default();
        for record in shared.catalog().records() {
            needed.blobs.extend(record.blobs.iter().cloned());
            needed
                .layers
                .extend(record.layers.iter().map(|layer| layer.chain_id.clone()));
        }
        let now = SystemTime::now();
        let leases = shared
            .metadata
            .scan(LEASES)
            .map_err(Error::metadata("read leases"))?;
        for (_, lease) in leases.records {
            if lease.expires_at.is_none_or(|expiry| expiry > now) {
                needed.blobs.extend(lease.blobs);
                needed.layers.extend(lease.layers);
            }
        }
        let snapshots = shared
            .snapshotter
            .snapshots()
            .map_err(Error::snapshots("list snapshots"))?;
        needed
            .layers
            .extend(snapshots.into_iter().flat_map(|snapshot| snapshot.layers));
        Ok(needed)
    }

    fn contains(&self, item: &Item) -> bool {
        match item {
            Item::Blob(digest) => self.blobs.contains(digest),
            Item::Layer(chain) => self.layers.contains(chain),
        }
    }
}
