//! One layer against its blob, and what is done about a difference.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use berth_metadata::schema::LayerRecord;
use berth_snapshots::{LayerDraft, LayerInfo};
use berth_unpack::Compared;

use crate::images::Shared;
use crate::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    /// It was made anew from the blob.
    Healed,
    /// It was bad and could not be made anew: its images are hidden.
    Retired,
}

/// Whether a layer differs from its blob, which was verified. `read` is told what is read, and may
/// wait.
pub(super) fn differs(
    shared: &Shared,
    layer: &LayerRecord,
    mut read: impl FnMut(u64),
) -> Result<bool> {
    let Some(content) = content_of(shared, layer)? else {
        return Ok(false);
    };
    let found = compare(shared, layer, &content, &mut read)?;
    Ok(found.differences > 0)
}

/// Compares a layer with its blob, which was verified, and puts a good one in its place if it
/// differs. The caller has the layer's lock. Blocks.
pub(crate) fn check_and_heal(shared: &Shared, layer: &LayerRecord) -> Result<Outcome> {
    let Some(content) = content_of(shared, layer)? else {
        return Ok(Outcome::Good);
    };
    let found = compare(shared, layer, &content, &mut |_| {})?;
    if found.differences == 0 {
        return Ok(Outcome::Good);
    }
    let chain = &layer.chain_id;
    match make_anew(shared, layer, &found) {
        Ok(None) => Ok(Outcome::Good),
        Ok(Some((draft, info))) => replace(shared, layer, &found, draft, info),
        Err(error) => {
            tracing::warn!(layer = %chain, found = ?found.told, error = error.report(),
                "a layer is damaged and could not be made anew: its images have to be pulled again");
            shared.retire(chain);
            Ok(Outcome::Retired)
        }
    }
}

/// `None` for a layer that was removed a moment ago.
fn content_of(shared: &Shared, layer: &LayerRecord) -> Result<Option<OwnedFd>> {
    let chain = &layer.chain_id;
    let content = shared.snapshotter.layer_content(chain);
    content.map_err(Error::layer("open", chain))
}

fn compare(
    shared: &Shared,
    layer: &LayerRecord,
    content: &impl AsFd,
    read: &mut dyn FnMut(u64),
) -> Result<Compared> {
    let options = &shared.config.unpack;
    let blob = blob(shared, layer)?;
    let pace = std::cell::RefCell::new(read);
    let paced = Paced {
        file: blob,
        read: |bytes| (pace.borrow_mut())(bytes),
    };
    berth_unpack::compare(paced, content.as_fd(), options, |bytes| {
        (pace.borrow_mut())(bytes);
    })
    .map_err(|source| Error::Unpack {
        digest: layer.digest.clone(),
        source,
    })
}

fn blob(shared: &Shared, layer: &LayerRecord) -> Result<File> {
    let opened = shared.content.open_blob(&layer.digest);
    opened.map_err(Error::content("open the blob of a layer"))
}

/// Unpacks the blob again. `None` if that gives what is there: some archives change what an earlier
/// entry of theirs has made, and are never like what they make.
fn make_anew(
    shared: &Shared,
    layer: &LayerRecord,
    found: &Compared,
) -> Result<Option<(LayerDraft, LayerInfo)>> {
    let parent = shared.parent_of(&layer.chain_id)?;
    let (draft, info) = shared.remade(layer, parent.as_ref())?;
    let fresh = compare(shared, layer, &draft.dir_fd(), &mut |_| {})?;
    Ok((fresh != *found).then_some((draft, info)))
}

fn replace(
    shared: &Shared,
    layer: &LayerRecord,
    found: &Compared,
    draft: LayerDraft,
    info: LayerInfo,
) -> Result<Outcome> {
    let chain = &layer.chain_id;
    shared.replace(chain, draft, info)?;
    if let Err(error) = shared.snapshotter.sync() {
        shared.hide(chain);
        return Err(Error::layer("commit", chain)(error));
    }
    tracing::warn!(layer = %chain, differences = found.differences, found = ?found.told,
        "a layer was damaged and is made anew from its blob");
    Ok(Outcome::Healed)
}

/// Tells what is read of a file.
struct Paced<F> {
    file: File,
    read: F,
}

impl<F: FnMut(u64)> Read for Paced<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        (self.read)(count as u64);
        Ok(count)
    }
}
