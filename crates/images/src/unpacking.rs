//! A layer on its way from an archive to its files.

use std::io::Read;

use berth_metadata::schema::LayerRecord;
use berth_names::{ChainId, Digest};
use berth_snapshots::{LayerDraft, LayerInfo};
use berth_unpack::Applied;

use crate::images::Shared;
use crate::manifest::LayerPlan;
use crate::{Error, Result};

/// Which layer is unpacked, and what it is to become.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unpacking<'a> {
    pub chain: &'a ChainId,
    pub parent: Option<&'a ChainId>,
    /// Of the archive as it came, for errors.
    pub digest: &'a Digest,
    pub diff_id: &'a Digest,
}

impl<'a> Unpacking<'a> {
    pub fn of(layer: &'a LayerRecord, parent: Option<&'a ChainId>) -> Self {
        Self {
            chain: &layer.chain_id,
            parent,
            digest: &layer.digest,
            diff_id: &layer.diff_id,
        }
    }

    pub fn planned(plan: &'a LayerPlan) -> Self {
        Self {
            chain: &plan.chain_id,
            parent: plan.parent.as_ref(),
            digest: &plan.descriptor.digest,
            diff_id: &plan.diff_id,
        }
    }

    /// The files of an archive, not in their place yet, and not compared with what they are to be:
    /// an archive that broke off has its own error. Blocks.
    pub fn draft(
        &self,
        shared: &Shared,
        archive: impl Read + Send,
    ) -> Result<(LayerDraft, Applied)> {
        let begun = shared.snapshotter.begin_layer(self.chain, self.parent);
        let draft = begun.map_err(Error::layer("begin", self.chain))?;
        let config = &shared.config;
        let unpacked = config
            .unpacker
            .unpack(archive, draft.dir_fd(), &config.unpack);
        let applied = unpacked.map_err(|source| Error::Unpack {
            digest: self.digest.clone(),
            source,
        })?;
        Ok((draft, applied))
    }

    /// What is kept of a layer that is what it is to be.
    pub fn info(&self, applied: Applied) -> Result<LayerInfo> {
        if applied.diff_id != *self.diff_id {
            return Err(Error::DigestMismatch {
                what: format!("the archive in layer {}", self.digest),
                expected: self.diff_id.clone(),
                actual: applied.diff_id,
            });
        }
        Ok(LayerInfo {
            diff_id: applied.diff_id,
            size: applied.bytes,
            inodes: applied.inodes,
        })
    }
}
