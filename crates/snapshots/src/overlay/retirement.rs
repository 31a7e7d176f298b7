//! Layers whose content was found bad, and that something still has mounted.
//!
//! ```text
//! layers/<chain> ─ retire ─► retired/<instance> ─ last snapshot gone, or another boot ─► trash
//!              └─ nothing stands on it ─► trash
//! ```
//!
//! OverlayFS holds on to the directories that it was mounted with: a rename does not concern it.

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::*;

const RECORD: &str = "retired.json";

/// Who may have the layer mounted.
#[derive(Debug, Serialize, Deserialize)]
struct Retirement {
    boot_id: String,
    /// Keys of the snapshots that stood on it.
    snapshots: Vec<String>,
}

impl Inner {
    pub(super) fn retire(&self, id: &ChainId) -> Result<()> {
        let snapshots = {
            let mut state = self.settle_layer(id);
            state.unsynced.remove(id);
            state.removing_layers.insert(id.clone());
            let standing = state.snapshots.iter();
            standing
                .filter(|(_, tracked)| tracked.snapshot.layers.contains(id))
                .map(|(key, _)| key.clone())
                .collect::<Vec<_>>()
        };
        let retired = match snapshots.is_empty() {
            true => self.discard_layer(id),
            false => self.set_aside(id, snapshots),
        };
        self.state.lock().removing_layers.remove(id);
        self.settled.notify_all();
        retired
    }

    fn set_aside(&self, id: &ChainId, snapshots: Vec<String>) -> Result<()> {
        let layout = &self.layout;
        let name = layout::layer_name(id);
        // The marker goes first: a layer that outlives it is dropped at the next boot.
        match layout.read_layer(&name) {
            Ok(Some(record)) => layout.durable.unlink(&record.marker())?,
            Ok(None) => return Ok(()),
            Err(Error::Record { .. }) => {}
            Err(error) => return Err(error),
        }
        let record = Retirement {
            boot_id: self.boot_id.clone(),
            snapshots,
        };
        layout
            .layers
            .write_record(&format!("{name}/{RECORD}"), &record)?;
        layout
            .rename_new(&layout.layers, &name, &layout.retired, &layout.unique())
            .map(drop)
    }

    /// Moves to the trash what nothing stands on any more.
    pub(super) fn discard_retired(&self) -> Result<()> {
        let layout = &self.layout;
        for name in layout.retired.list()? {
            let record = read(layout, &name);
            let state = self.state.lock();
            let in_use = record.is_some_and(|record| {
                let mut keys = record.snapshots.iter();
                keys.any(|key| state.snapshots.contains_key(key))
            });
            drop(state);
            if !in_use {
                layout.to_trash(&layout.retired, &name)?;
            }
        }
        Ok(())
    }
}

/// What was retired in another boot is mounted by nobody.
pub(super) fn recover(layout: &Layout, boot_id: &str) -> Result<()> {
    for name in layout.retired.list()? {
        let here = read(layout, &name).is_some_and(|record| record.boot_id == boot_id);
        if !here {
            layout.to_trash(&layout.retired, &name)?;
        }
    }
    Ok(())
}

/// Without its record it is of no use: it is written before anything is retired.
fn read(layout: &Layout, name: &str) -> Option<Retirement> {
    let record = format!("{name}/{RECORD}");
    layout.retired.read_record(&record).ok().flatten()
}
