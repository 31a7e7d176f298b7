//! What opening a store puts right: leftovers of a process or a host that died.

use std::collections::HashSet;
use std::path::PathBuf;

use super::layout::Layout;
use super::quota::Quotas;
use super::*;

/// Counts of what was found and cleaned when the store was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Layers and snapshots that were being made; moved to the trash.
    pub drafts: usize,
    /// Layers of an earlier boot that had not been flushed; moved to the trash.
    pub unflushed_layers: usize,
    /// Layers with a missing or damaged record; moved to the trash, a pull brings them back.
    pub damaged_layers: usize,
    /// Snapshots with a damaged record: left in place, not usable, removable by their key.
    pub damaged_snapshots: Vec<PathBuf>,
    /// Keys of snapshots that were made with a limit, which the file system does not hold them to now.
    pub unlimited_snapshots: Vec<String>,
}

pub(super) fn recover(
    layout: &Layout,
    quotas: &Quotas,
    boot_id: &str,
) -> Result<(State, Recovery)> {
    let mut state = State::default();
    let mut found = Recovery::default();
    for name in layout.drafts.list()? {
        quotas.lift(layout, &layout.drafts, &name);
        layout.to_trash(&layout.drafts, &name)?;
        found.drafts += 1;
    }
    retirement::recover(layout, boot_id)?;
    recover_layers(layout, boot_id, &mut state, &mut found)?;
    recover_snapshots(layout, &mut state, &mut found)?;
    let snapshots = state.snapshots.values().map(|tracked| &*tracked.snapshot);
    found.unlimited_snapshots = quotas.recover(layout, snapshots);
    Ok((state, found))
}

fn recover_layers(
    layout: &Layout,
    boot_id: &str,
    state: &mut State,
    found: &mut Recovery,
) -> Result<()> {
    let mut markers: HashSet<String> = layout.durable.list()?.into_iter().collect();
    for name in layout.layers.list()? {
        match layout.read_layer(&name) {
            Ok(Some(record)) if layout::layer_name(&record.layer.id) == name => {
                if markers.remove(&record.marker()) {
                    continue;
                }
                if record.boot_id == boot_id {
                    state.unsynced.insert(record.layer.id, record.instance);
                    continue;
                }
                found.unflushed_layers += 1;
            }
            Ok(_) | Err(Error::Record { .. }) => found.damaged_layers += 1,
            Err(error) => return Err(error),
        }
        layout.to_trash(&layout.layers, &name)?;
    }
    // Markers of layers that are gone.
    for stale in markers {
        layout.durable.unlink(&stale)?;
    }
    Ok(())
}

fn recover_snapshots(layout: &Layout, state: &mut State, found: &mut Recovery) -> Result<()> {
    for name in layout.active.list()? {
        let record = layout
            .active
            .read_record::<Snapshot>(&format!("{name}/snapshot.json"));
        match record {
            Ok(Some(snapshot)) if snapshot.key == name => {
                if snapshot.kind == SnapshotKind::Writable {
                    layout.allow_remount(&name)?;
                }
                let tracked = Tracked {
                    snapshot: Arc::new(snapshot),
                    phase: Phase::Ready,
                };
                state.snapshots.insert(name, tracked);
            }
            // A removal on a full disk was cut short.
            Ok(None) => layout.to_trash(&layout.active, &name)?,
            Ok(Some(_)) | Err(Error::Record { .. }) => {
                found.damaged_snapshots.push(layout.active.path(&name));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
