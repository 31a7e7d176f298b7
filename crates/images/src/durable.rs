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
use std::sync::atomic::Ordering;

use berth_content::Store;
use berth_metadata::schema::{ImageRecord, LayerRecord};
use berth_names::ChainId;
use berth_snapshots::{LayerDraft, LayerInfo, Snapshotter};
use futures::executor::block_on;

use crate::images::{Config, Shared, blocking};
use crate::{Error, Result};

/// Unpacks blobs that are here.
pub(crate) struct Remaking<'a> {
    pub content: &'a Store,
    pub snapshotter: &'a dyn Snapshotter,
    pub config: &'a Config,
}

impl Remaking<'_> {
    /// Makes the layers again that images have lost and whose blobs are here; `present` has them
    /// afterwards. Blocks for as long as unpacking takes: of what was pulled in the seconds before
    /// a power cut.
    pub fn regain<'r>(
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
                    match self.commit(layer, parent) {
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

    fn commit(&self, layer: &LayerRecord, parent: Option<&ChainId>) -> Result<()> {
        let (draft, info) = self.draft(layer, parent)?;
        let committed = self.snapshotter.commit(draft, info);
        committed.map_err(Error::layer("commit", &layer.chain_id))
    }

    /// The layer once more, not in its place yet.
    pub fn draft(
        &self,
        layer: &LayerRecord,
        parent: Option<&ChainId>,
    ) -> Result<(LayerDraft, LayerInfo)> {
        let chain = &layer.chain_id;
        let blob = self.content.open_blob(&layer.digest);
        let blob = blob.map_err(Error::content("open the blob of a layer"))?;
        let draft = self.snapshotter.begin_layer(chain, parent);
        let draft = draft.map_err(Error::layer("begin", chain))?;
        let unpack = &self.config.unpack;
        let unpacked = self.config.unpacker.unpack(blob, draft.dir_fd(), unpack);
        let applied = unpacked.map_err(|source| Error::Unpack {
            digest: layer.digest.clone(),
            source,
        })?;
        if applied.diff_id != layer.diff_id {
            return Err(Error::DigestMismatch {
                what: format!("the archive in layer {}", layer.digest),
                expected: layer.diff_id.clone(),
                actual: applied.diff_id,
            });
        }
        let info = LayerInfo {
            diff_id: applied.diff_id,
            size: applied.bytes,
            inodes: applied.inodes,
        };
        Ok((draft, info))
    }
}

impl Shared {
    pub(crate) fn remaking(&self) -> Remaking<'_> {
        Remaking {
            content: &self.content,
            snapshotter: &*self.snapshotter,
            config: &self.config,
        }
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
        if self.flush_wanted.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let _turn = shared.flushing.lock().await;
            // What is asked for from here on may have been missed by this flush.
            shared.flush_wanted.store(false, Ordering::Release);
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
            if let Err(error) = self.replace(chain) {
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

    fn replace(&self, chain: &ChainId) -> Result<()> {
        let Some(layer) = self.layers_of(|layer| layer.chain_id == *chain).pop() else {
            // No image needs it, and the collector takes it.
            return Ok(());
        };
        let parent = self.parent_of(chain)?;
        let (draft, info) = self.remaking().draft(&layer, parent.as_ref())?;
        let retired = self.snapshotter.retire_layer(chain);
        retired.map_err(Error::layer("retire", chain))?;
        let placed = self.snapshotter.commit(draft, info);
        placed.map_err(Error::layer("commit", chain))
    }
}
