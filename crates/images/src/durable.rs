//! How images outlive a power cut without a pull that waits for all its files.
//!
//! ```text
//! blobs synced ─► record committed ─► the image is there ─► layers flushed, behind
//!                                               │
//!                                     power cut before that
//!                                               ▼
//!                           start: layers made again from their blobs
//! ```
//!
//! What was unpacked of a blob can be unpacked again, so the blob alone has to be on the disk before
//! an image is shown: a third of the bytes. The snapshotter tells flushed layers from others, and
//! drops the others after a reboot.

use std::collections::HashSet;
use std::sync::Arc;

use berth_metadata::schema::{ImageRecord, LayerRecord};
use berth_names::ChainId;
use berth_snapshots::{LayerDraft, LayerInfo};
use futures::executor::block_on;

use crate::images::{Shared, blocking};
use crate::unpacking::Unpacking;
use crate::{Error, Result};

impl Shared {
    /// Makes the layers again that images have lost and whose blobs are here; `present` has them
    /// afterwards. Blocks for as long as unpacking takes: of what was pulled in the seconds before
    /// a power cut.
    pub(crate) fn regain<'r>(
        &self,
        images: impl Iterator<Item = &'r ImageRecord>,
        present: &mut HashSet<ChainId>,
    ) {
        // The files of artifacts are links to blobs, and were flushed before they were shown.
        for image in images.filter(|image| image.artifact_type.is_none()) {
            let mut parent = None;
            for layer in &image.layers {
                let chain = &layer.chain_id;
                if !present.contains(chain) && self.has_blob(layer) {
                    match self.put_back(layer, parent) {
                        Ok(()) => {
                            tracing::info!(layer = %chain, "a lost layer is made again from its blob");
                            present.insert(chain.clone());
                        }
                        Err(error) => tracing::warn!(layer = %chain, error = error.report(),
                            "a lost layer cannot be made again from its blob"),
                    }
                }
                parent = Some(chain);
            }
        }
    }

    fn has_blob(&self, layer: &LayerRecord) -> bool {
        let stored = self.content.has(&layer.digest);
        stored.is_ok_and(|size| size == Some(layer.size))
    }

    fn put_back(&self, layer: &LayerRecord, parent: Option<&ChainId>) -> Result<()> {
        let (draft, info) = self.remade(layer, parent)?;
        let committed = self.snapshotter.commit(draft, info);
        committed.map_err(Error::layer("commit", &layer.chain_id))
    }

    /// A layer once more from its blob, not in its place yet.
    pub(crate) fn remade(
        &self,
        layer: &LayerRecord,
        parent: Option<&ChainId>,
    ) -> Result<(LayerDraft, LayerInfo)> {
        let blob = self.content.open_blob(&layer.digest);
        let blob = blob.map_err(Error::content("open the blob of a layer"))?;
        let unpacking = Unpacking::of(layer, parent);
        let (draft, applied) = unpacking.draft(self, blob)?;
        Ok((draft, unpacking.info(applied)?))
    }

    /// Puts a good layer in the place of one that is not. The caller has the layer's lock.
    pub(crate) fn replace(
        &self,
        chain: &ChainId,
        draft: LayerDraft,
        info: LayerInfo,
    ) -> Result<()> {
        let retired = self.snapshotter.retire_layer(chain);
        retired.map_err(Error::layer("retire", chain))?;
        let placed = self.snapshotter.commit(draft, info);
        placed.map_err(|error| {
            self.hide(chain);
            Error::layer("commit", chain)(error)
        })
    }

    /// Below which layer this one was unpacked.
    pub(crate) fn parent_of(&self, chain: &ChainId) -> Result<Option<ChainId>> {
        let stored = self.snapshotter.layers();
        let stored = stored.map_err(Error::snapshots("list layers"))?;
        let known = stored.into_iter().find(|known| known.id == *chain);
        Ok(known.and_then(|known| known.parent))
    }

    /// Flushes the layers soon, without anybody waiting. Requests that come together are one.
    pub(crate) fn flush_behind(self: &Arc<Self>) {
        if !self.flushing.want() {
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let _turn = shared.flushing.begin().await;
            let work = Arc::clone(&shared);
            let flushed = blocking("flush layers", move || {
                work.flush();
                Ok(())
            });
            if let Err(error) = flushed.await {
                tracing::warn!(error = error.report(), "layers were not flushed");
            }
        });
    }

    /// Nobody knows what is left of a layer that the disk refused once its pages leave the memory:
    /// it is made once more from its blob, and if that is refused too, its images are hidden.
    fn flush(&self) {
        let refused = self.sync_layers();
        if refused.is_empty() {
            return;
        }
        for chain in &refused {
            let _layer = block_on(self.layers.lock(chain.clone()));
            if let Err(error) = self.make_anew(chain) {
                tracing::warn!(layer = %chain, error = error.report(),
                    "a layer that the disk refused cannot be made again from its blob");
                self.retire(chain);
            }
        }
        for chain in self.sync_layers() {
            self.retire(&chain);
        }
    }

    /// The layers that the disk refused.
    fn sync_layers(&self) -> Vec<ChainId> {
        let Err(error) = self.snapshotter.sync() else {
            return Vec::new();
        };
        let refused = match &error {
            berth_snapshots::Error::Flush { layers, .. } => layers.clone(),
            // They may be there, but are not known to be: the next flush says so.
            _ => Vec::new(),
        };
        let error = Error::snapshots("flush layers")(error);
        tracing::error!(error = error.report(), "layers are not on the disk");
        refused
    }

    fn make_anew(&self, chain: &ChainId) -> Result<()> {
        let Some(layer) = self.layers_of(|layer| layer.chain_id == *chain).pop() else {
            // No image needs it, and the collector takes it.
            return Ok(());
        };
        let parent = self.parent_of(chain)?;
        let (draft, info) = self.remade(&layer, parent.as_ref())?;
        self.replace(chain, draft, info)
    }
}
