//! Reading everything again, slowly: blobs against their digests, layers against their blobs.
//!
//! ```text
//! blob ─ digest wrong ─► removed; the next pull fetches it, and it alone
//!   └─ good ─ a layer from it differs ─► made anew from the blob, and the bad one retired
//!                                └─ that fails ─► retired; its images are hidden until a pull
//! ```
//!
//! A round goes through the blobs in the order of their digests and remembers where it is, so that
//! a restart goes on there. It runs on a thread of its own, at the lowest priority for the CPU and
//! the disk, and no faster than it is told.

mod pace;
pub(crate) mod repair;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use berth_metadata::Batch;
use berth_metadata::schema::{LayerRecord, state};
use berth_names::{ChainId, Digest};
use futures::executor::block_on;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::holds::Item;
use crate::images::{Images, Shared};
use crate::{Error, Result};
pub use pace::Pace;
use pace::Pacer;
use repair::Outcome;

/// Key of the record that remembers the position.
const KEY: &str = "scrub";
/// How often the position is written down, in time spent on blobs.
const REMEMBER: Duration = Duration::from_secs(10);

/// Where a round is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    began: SystemTime,
    /// The last blob that was looked at; none at the beginning.
    #[serde(default)]
    after: Option<Digest>,
    #[serde(default)]
    finished: bool,
}

/// What a round, or the rest of one, has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    pub blobs: u64,
    pub layers: u64,
    /// Bytes read, of blobs and of layers' files.
    pub bytes: u64,
    /// Blobs that were removed because they were not what their digest says.
    pub bad_blobs: u64,
    /// Layers that were not what their blob says, or were missing.
    pub bad_layers: u64,
    /// Bad layers that were made anew from their blob.
    pub healed: u64,
}

/// What is next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Begin,
    GoOn(Position),
    Wait(Duration),
}

fn next(position: Option<Position>, now: SystemTime, every: Duration) -> Next {
    let Some(position) = position else {
        return Next::Begin;
    };
    if !position.finished {
        return Next::GoOn(position);
    }
    match now.duration_since(position.began) {
        Ok(age) if age < every => Next::Wait(every - age),
        // Also where the clock was set back: nobody knows how long ago it was.
        _ => Next::Begin,
    }
}

impl Images {
    /// How long until the next round is due; nothing if one was cut short.
    pub fn scrub_due(&self, every: Duration) -> Duration {
        match next(self.shared.position(), SystemTime::now(), every) {
            Next::Begin | Next::GoOn(_) => Duration::ZERO,
            Next::Wait(left) => left,
        }
    }

    /// Runs a round, or the rest of one that was cut short. Dropping the future ends it soon.
    ///
    /// # Errors
    /// If it cannot be told what there is. What is found bad is no error.
    pub async fn scrub(&self, pace: Pace) -> Result<Scrubbed> {
        let shared = Arc::clone(&self.shared);
        let stop = Stop(Arc::new(AtomicBool::new(false)));
        let stopping = Arc::clone(&stop.0);
        let (done, outcome) = oneshot::channel();
        let span = tracing::Span::current();
        let spawned = std::thread::Builder::new()
            .name("berth-scrub".to_owned())
            .spawn(move || {
                let _entered = span.enter();
                yield_to_others();
                let round = Round::new(&shared, pace, &stopping);
                let _nobody_waits = done.send(round.run());
            });
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to scrub on");
            return Ok(Scrubbed::default());
        }
        outcome.await.unwrap_or(Err(Error::Panicked {
            operation: "scrubbing",
        }))
    }
}

/// Ends a round that nobody waits for.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Of the calling thread: Linux keeps both for each (setpriority(2), "C library/kernel
/// differences"; ioprio_set(2)).
fn yield_to_others() {
    const IDLE: u8 = 3;
    let _as_it_was = berth_kernel::set_io_priority(IDLE, 0);
    let _as_it_was = rustix::process::setpriority_process(None, 19);
}

impl Shared {
    fn position(&self) -> Option<Position> {
        // One that cannot be read is set aside, and a round begins anew.
        self.metadata.get(state(), &KEY.to_owned()).ok().flatten()
    }

    fn remember(&self, position: &Position) {
        let mut batch = Batch::new();
        let put = batch.put(state(), &KEY.to_owned(), position).map(drop);
        let written = put.and_then(|()| self.metadata.commit(batch).wait());
        if let Err(error) = written {
            // What is forgotten is looked at again.
            tracing::warn!(%error, "the position of reading images again is not written down");
        }
    }
}

struct Round<'a> {
    shared: &'a Arc<Shared>,
    pacer: Pacer<'a>,
    found: Scrubbed,
}

impl<'a> Round<'a> {
    fn new(shared: &'a Arc<Shared>, pace: Pace, stop: &'a AtomicBool) -> Self {
        Self {
            shared,
            pacer: Pacer::new(pace, stop),
            found: Scrubbed::default(),
        }
    }

    fn run(mut self) -> Result<Scrubbed> {
        let known = self.shared.position().filter(|known| !known.finished);
        let mut position = known.unwrap_or_else(|| Position {
            began: SystemTime::now(),
            after: None,
            finished: false,
        });
        self.hide_incomplete();
        let mut blobs: Vec<Digest> = self
            .shared
            .content
            .list()
            .map_err(Error::content("list blobs"))?
            .into_iter()
            .map(|blob| blob.digest)
            .filter(|digest| position.after.as_ref().is_none_or(|after| digest > after))
            .collect();
        blobs.sort();
        let mut remembered = std::time::Instant::now();
        for digest in blobs {
            if self.pacer.is_stopped() {
                self.shared.remember(&position);
                return Ok(self.found);
            }
            self.blob(&digest);
            if self.pacer.is_stopped() {
                continue;
            }
            position.after = Some(digest);
            if remembered.elapsed() >= REMEMBER {
                self.shared.remember(&position);
                remembered = std::time::Instant::now();
            }
        }
        if !self.pacer.is_stopped() {
            position.finished = true;
            self.shared.meters.scrubbed();
            tracing::info!(found = ?self.found, "images were read again");
        }
        self.shared.remember(&position);
        Ok(self.found)
    }

    /// Images that lost a layer while nobody looked are to be pulled again.
    fn hide_incomplete(&mut self) {
        for layer in self.shared.layers_of(|_| true) {
            let chain = &layer.chain_id;
            if let Ok(None) = self.shared.snapshotter.layer(chain) {
                tracing::warn!(layer = %chain, "a layer is gone");
                self.found.bad_layers += 1;
                self.shared.meters.bad("layer");
                self.shared.hide(chain);
            }
        }
    }

    /// Nothing that goes wrong with one blob keeps the others from being looked at.
    fn blob(&mut self, digest: &Digest) {
        let layers = self.shared.layers_of(|layer| layer.digest == *digest);
        let chains = layers
            .iter()
            .map(|layer| Item::Layer(layer.chain_id.clone()));
        let items = chains.chain([Item::Blob(digest.clone())]).collect();
        // The collector leaves alone what is being read.
        let _hold = block_on(self.shared.holds.hold(items));
        if !self.is_good(digest) {
            return;
        }
        for layer in layers {
            if self.pacer.is_stopped() {
                return;
            }
            self.layer(&layer);
        }
    }

    fn is_good(&mut self, digest: &Digest) -> bool {
        use berth_content::Error as Content;
        let (pacer, mut bytes) = (&mut self.pacer, 0);
        let verified = self.shared.content.verify_with(digest, |read| {
            bytes += read;
            pacer.took(read);
        });
        self.found.bytes += bytes;
        self.found.blobs += 1;
        self.shared.meters.read("blob", bytes);
        match verified {
            Ok(()) => true,
            Err(Content::DigestMismatch { .. } | Content::Io { .. }) => {
                self.found.bad_blobs += 1;
                self.shared.meters.bad("blob");
                tracing::warn!(blob = %digest,
                    "a blob is damaged and was removed: the next pull fetches it again");
                self.discard(digest);
                false
            }
            // Collected a moment ago.
            Err(_) => false,
        }
    }

    fn discard(&self, digest: &Digest) {
        let _turn = block_on(self.shared.blobs.lock(digest.clone()));
        if let Err(error) = self.shared.content.remove(digest) {
            tracing::warn!(%error, "a damaged blob stays");
        }
        // The files of an artifact are its blobs.
        for chain in self.shared.artifacts_with(digest) {
            let _turn = block_on(self.shared.layers.lock(chain.clone()));
            self.shared.retire(&chain);
        }
    }

    /// Slow reading is done without the layer's lock, which pulls wait for; what differs is then
    /// looked at again, with it.
    fn layer(&mut self, layer: &LayerRecord) {
        let (pacer, mut bytes) = (&mut self.pacer, 0);
        let compared = repair::differs(self.shared, layer, |read| {
            bytes += read;
            pacer.took(read);
        });
        self.found.bytes += bytes;
        self.found.layers += 1;
        self.shared.meters.read("layer", bytes);
        let outcome = match compared {
            Ok(true) => {
                let _turn = block_on(self.shared.layers.lock(layer.chain_id.clone()));
                repair::check_and_heal(self.shared, layer)
            }
            Ok(false) => Ok(Outcome::Good),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Outcome::Good) => {}
            Ok(outcome) => {
                self.found.bad_layers += 1;
                self.shared.meters.bad("layer");
                if outcome == Outcome::Healed {
                    self.found.healed += 1;
                    self.shared.meters.healed();
                }
            }
            Err(error) => tracing::warn!(layer = %layer.chain_id, error = error.report(),
                "a layer could not be compared with its blob"),
        }
    }
}

impl Shared {
    /// Layers of images that have them unpacked from a blob, each once.
    pub(crate) fn layers_of(&self, wanted: impl Fn(&LayerRecord) -> bool) -> Vec<LayerRecord> {
        let catalog = self.catalog();
        let mut layers: Vec<LayerRecord> = catalog
            .complete()
            .filter(|record| record.artifact_type.is_none())
            .flat_map(|record| &record.layers)
            .filter(|layer| wanted(layer))
            .cloned()
            .collect();
        layers.sort_by(|a, b| a.chain_id.cmp(&b.chain_id));
        layers.dedup_by(|a, b| a.chain_id == b.chain_id);
        layers
    }

    fn artifacts_with(&self, blob: &Digest) -> Vec<ChainId> {
        let catalog = self.catalog();
        let artifacts = catalog.complete().filter(|record| {
            record.artifact_type.is_some()
                && record.manifest != *blob
                && record.blobs.contains(blob)
        });
        let layers = artifacts.flat_map(|record| &record.layers);
        layers.map(|layer| layer.chain_id.clone()).collect()
    }

    /// Takes a bad layer out of the way of a good one. Its images are not shown until they are
    /// pulled again.
    pub(crate) fn retire(&self, chain: &ChainId) {
        self.hide(chain);
        if let Err(error) = self.snapshotter.retire_layer(chain) {
            tracing::warn!(layer = %chain, %error, "a bad layer stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_due_after_its_time_and_one_that_was_cut_short_at_once() {
        let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
        let position = |ago: Duration, finished| Position {
            began: now - ago,
            after: None,
            finished,
        };
        assert_eq!(next(None, now, hour), Next::Begin);
        let begun = position(hour / 2, false);
        assert_eq!(next(Some(begun.clone()), now, hour), Next::GoOn(begun));
        let done = position(hour / 4, true);
        assert_eq!(next(Some(done), now, hour), Next::Wait(hour * 3 / 4));
        assert_eq!(next(Some(position(hour, true)), now, hour), Next::Begin);
        let future = Position {
            began: now + hour * 9000,
            ..position(hour, true)
        };
        assert_eq!(
            next(Some(future), now, hour),
            Next::Begin,
            "the clock was set back"
        );
    }
}
