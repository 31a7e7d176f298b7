//! How far a pull is, for those who look on. A state that is looked at, not a stream: whoever comes
//! late sees it whole, and nobody is waited for.

use std::sync::Arc;

use berth_names::Digest;
use parking_lot::Mutex;

use crate::manifest::LayerPlan;

/// What becomes of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Waiting,
    Downloading {
        /// Bytes that are here, those of an earlier attempt too.
        received: u64,
    },
    Unpacking,
    Done,
    /// It was here before.
    Present,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// The compressed blob; may stand in an image twice.
    pub digest: Digest,
    pub size: u64,
    pub phase: Phase,
}

/// The layers of a pull, bottom to top; none before the manifest is known. Clones look at the same.
#[derive(Debug, Clone, Default)]
pub struct PullWatch(Arc<Mutex<Vec<LayerProgress>>>);

impl PullWatch {
    pub fn layers(&self) -> Vec<LayerProgress> {
        self.0.lock().clone()
    }

    pub(crate) fn plan(&self, plans: &[LayerPlan]) {
        let layers = plans.iter().map(|plan| LayerProgress {
            digest: plan.descriptor.digest.clone(),
            size: plan.descriptor.size,
            phase: Phase::Waiting,
        });
        *self.0.lock() = layers.collect();
    }

    pub(crate) fn set(&self, digest: &Digest, phase: Phase) {
        for layer in self.0.lock().iter_mut() {
            if layer.digest == *digest {
                layer.phase = phase;
            }
        }
    }

    pub(crate) fn received(&self, digest: &Digest, bytes: u64) {
        for layer in self.0.lock().iter_mut() {
            if let Phase::Downloading { received } = &mut layer.phase
                && layer.digest == *digest
            {
                *received += bytes;
            }
        }
    }
}
