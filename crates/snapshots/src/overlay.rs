//! Layers as directories, stacked by OverlayFS.
//!
//! ```text
//! <root>/                      0700, held by flock while open
//!   layers/<chain>/            visible by rename
//!     fs/                      the layer's files; whiteouts are character devices 0:0
//!     layer.json               LayerRecord
//!   durable/<chain>.<instance> empty marker: this instance of the layer survives a power cut
//!   drafts/<instance>/fs/      a layer being filled; also a snapshot being made
//!   active/<key>/              visible by rename
//!     snapshot.json            Snapshot
//!     upper/ work/             writable snapshots only; of a project of their own if limited
//!     usage.json               what it takes, once somebody has asked
//!   retired/<instance>/        a layer whose content was found bad, while snapshots stand on it
//!     retired.json             Retirement
//!   trash/<instance>           removed; deleted by `purge_trash`
//!   empty/                     what a view of no layers shows
//! ```
//!
//! `<chain>` is the hexadecimal part of the chain id, `<instance>` a name that is never used
//! twice. The directories are the truth: nothing is cached but the list of snapshots, which
//! guards layers that are in use.
//!
//! A layer is committed without flushing its files. [`Snapshotter::sync`] flushes the filesystem
//! once and then marks every layer committed before as durable. A layer without its marker is
//! kept after a restart of the process, and dropped after a reboot, when its files may be empty.
//!
//! Writable snapshots are mounted `volatile`: unmounting does not flush. The kernel leaves
//! `work/work/incompat` behind then and refuses the next mount; it is removed at open and whenever the
//! mounts are asked for again, since the upper directory of a container is never more than a
//! cache that died with the host.

mod layout;
mod quota;
mod recovery;
mod retirement;
mod stack;
mod tree;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use berth_names::ChainId;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Attempt, Error, Result};
use crate::snapshotter::{
    Layer, LayerDraft, LayerInfo, Mount, Snapshot, SnapshotKind, Snapshotter, Usage,
};
use layout::{LayerRecord, Layout};
use quota::{Kernel, Projects, Quotas};
pub use recovery::Recovery;

/// Most lower directories that the kernel stacks (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;

/// The overlay snapshotter. See the module's head for what it keeps on disk.
pub struct Overlay {
    inner: Arc<Inner>,
    recovery: Recovery,
}

struct Inner {
    layout: Layout,
    quotas: Quotas,
    boot_id: String,
    state: Mutex<State>,
    /// Signalled whenever a snapshot or layer has finished changing.
    settled: Condvar,
}

#[derive(Default)]
struct State {
    snapshots: HashMap<String, Tracked>,
    removing_layers: HashSet<ChainId>,
    /// Instances committed since the last sync, by layer.
    unsynced: HashMap<ChainId, String>,
}

struct Tracked {
    snapshot: Arc<Snapshot>,
    phase: Phase,
}

/// `Creating -> Ready -> Removing`, then gone. Only `Ready` is visible to callers; the others
/// make calls for the same key wait, so that an undo never runs ahead of what it undoes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Creating,
    Ready,
    Removing,
}

impl Overlay {
    /// Opens or makes the store at `root`, which must be absolute, on a filesystem that can hold
    /// overlay upper directories, and whose path OverlayFS options can carry (no `:`, `,`, `\`).
    /// Waits up to five seconds for a previous process to let go of it.
    pub fn open(root: &Path) -> Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .attempt("reading", "/proc/sys/kernel/random/boot_id")?;
        Self::open_in_boot(root, boot_id.trim())
    }

    fn open_in_boot(root: &Path, boot_id: &str) -> Result<Self> {
        Self::open_with(root, boot_id, Box::new(Kernel))
    }

    fn open_with(root: &Path, boot_id: &str, projects: Box<dyn Projects>) -> Result<Self> {
        let layout = Layout::open(root)?;
        let quotas = Quotas::new(projects);
        let (state, recovery) = recovery::recover(&layout, &quotas, boot_id)?;
        let inner = Inner {
            layout,
            quotas,
            boot_id: boot_id.to_owned(),
            state: Mutex::new(state),
            settled: Condvar::new(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            recovery,
        })
    }

    /// What had to be put right when the store was opened, for the log.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    fn create(
        &self,
        key: &str,
        kind: SnapshotKind,
        layers: &[ChainId],
        limit: Option<u64>,
    ) -> Result<Vec<Mount>> {
        layout::check_key(key)?;
        if layers.len() > MAX_LAYERS {
            let (key, count) = (key.to_owned(), layers.len());
            return Err(Error::TooManyLayers {
                key,
                count,
                max: MAX_LAYERS,
            });
        }
        let snapshot = Arc::new(Snapshot {
            key: key.to_owned(),
            kind,
            layers: layers.to_vec(),
            limit,
        });
        self.inner.announce(&snapshot)?;
        let made = self.inner.build(&snapshot);
        let mut state = self.inner.state.lock();
        match (&made, state.snapshots.get_mut(key)) {
            (Ok(_), Some(tracked)) => tracked.phase = Phase::Ready,
            _ => drop(state.snapshots.remove(key)),
        }
        drop(state);
        self.inner.settled.notify_all();
        made
    }
}

impl Inner {
    /// Waits until nobody creates or removes the snapshot.
    fn settle<'a>(&'a self, key: &str) -> MutexGuard<'a, State> {
        let mut state = self.state.lock();
        while state
            .snapshots
            .get(key)
            .is_some_and(|t| t.phase != Phase::Ready)
        {
            self.settled.wait(&mut state);
        }
        state
    }

    /// Reserves the key, and with it the layers against removal.
    fn announce(&self, snapshot: &Arc<Snapshot>) -> Result<()> {
        let mut state = self.settle(&snapshot.key);
        if state.snapshots.contains_key(&snapshot.key) {
            return Err(Error::SnapshotExists {
                key: snapshot.key.clone(),
            });
        }
        if let Some(layer) = snapshot
            .layers
            .iter()
            .find(|l| state.removing_layers.contains(l))
        {
            return Err(Error::LayerMissing {
                layer: layer.clone(),
            });
        }
        let tracked = Tracked {
            snapshot: snapshot.clone(),
            phase: Phase::Creating,
        };
        state.snapshots.insert(snapshot.key.clone(), tracked);
        Ok(())
    }

    /// Makes the snapshot's directory in the drafts and renames it into place.
    fn build(&self, snapshot: &Snapshot) -> Result<Vec<Mount>> {
        let stack = stack::resolve(&self.layout, &snapshot.layers)?;
        let name = self.layout.unique();
        let drafts = &self.layout.drafts;
        drafts.make(&name)?;
        let built = (|| {
            if snapshot.kind == SnapshotKind::Writable {
                stack::make_upper(drafts, &name, &stack)?;
            }
            if let Some(bytes) = snapshot.limit {
                self.quotas.limit_draft(&self.layout, &name, bytes)?;
            }
            drafts.write_record(&format!("{name}/snapshot.json"), snapshot)?;
            berth_faults::at("snapshot.prepare.before-rename")?;
            self.layout
                .rename_new(drafts, &name, &self.layout.active, &snapshot.key)
        })();
        berth_faults::passing("snapshot.prepare.after-rename");
        match built {
            Ok(true) => Ok(stack::mounts(&self.layout, snapshot, &stack)),
            Ok(false) => {
                self.discard_draft(&name);
                Err(Error::SnapshotExists {
                    key: snapshot.key.clone(),
                })
            }
            Err(error) => {
                self.discard_draft(&name);
                Err(error)
            }
        }
    }

    /// Deletes a draft. What cannot be deleted now is found in the trash, or at the next open.
    fn discard_draft(&self, name: &str) {
        self.quotas.lift(&self.layout, &self.layout.drafts, name);
        if self.layout.to_trash(&self.layout.drafts, name).is_ok() {
            let _ = tree::delete(self.layout.trash.fd(), name, self.layout.trash.fd());
        }
    }

    fn find(&self, key: &str) -> Result<Arc<Snapshot>> {
        match self.settle(key).snapshots.get(key) {
            Some(tracked) => Ok(tracked.snapshot.clone()),
            None => Err(Error::SnapshotMissing {
                key: key.to_owned(),
            }),
        }
    }

    /// Marks the layer as going away, unless a snapshot stands on it.
    fn announce_layer_removal(&self, id: &ChainId) -> Result<()> {
        let mut state = self.settle_layer(id);
        let user = state
            .snapshots
            .values()
            .find(|t| t.snapshot.layers.contains(id));
        if let Some(user) = user {
            let key = user.snapshot.key.clone();
            return Err(Error::LayerInUse {
                layer: id.clone(),
                key,
            });
        }
        state.unsynced.remove(id);
        state.removing_layers.insert(id.clone());
        Ok(())
    }

    fn settle_layer<'a>(&'a self, id: &ChainId) -> MutexGuard<'a, State> {
        let mut state = self.state.lock();
        while state.removing_layers.contains(id) {
            self.settled.wait(&mut state);
        }
        state
    }

    fn discard_layer(&self, id: &ChainId) -> Result<()> {
        let name = layout::layer_name(id);
        match self.layout.read_layer(&name) {
            // The marker goes first: a layer that outlives it is dropped at the next boot.
            Ok(Some(record)) => {
                self.layout.durable.unlink(&record.marker())?;
                berth_faults::at("layer.remove.after-marker")?;
            }
            Ok(None) => return Ok(()),
            Err(Error::Record { .. }) => {}
            Err(error) => return Err(error),
        }
        self.layout.to_trash(&self.layout.layers, &name)
    }
}

impl Snapshotter for Overlay {
    fn layer(&self, id: &ChainId) -> Result<Option<LayerInfo>> {
        if self.inner.state.lock().removing_layers.contains(id) {
            return Ok(None);
        }
        let record = self.inner.layout.read_layer(&layout::layer_name(id))?;
        Ok(record.map(|record| record.layer.info))
    }

    fn begin_layer(&self, id: &ChainId, parent: Option<&ChainId>) -> Result<LayerDraft> {
        let name = self.inner.layout.unique();
        let drafts = &self.inner.layout.drafts;
        drafts.make(&name)?;
        let inner = self.inner.clone();
        let undo = name.clone();
        let discard: Box<dyn FnOnce() + Send> = Box::new(move || inner.discard_draft(&undo));
        let opened = drafts.make_public(&format!("{name}/fs"));
        match opened {
            Ok(dir) => {
                let path = drafts.path(&name).join("fs");
                Ok(LayerDraft::new(
                    id.clone(),
                    parent.cloned(),
                    path,
                    dir,
                    discard,
                ))
            }
            Err(error) => {
                discard();
                Err(error)
            }
        }
    }

    fn commit(&self, draft: LayerDraft, info: LayerInfo) -> Result<()> {
        let Some(instance) = self.inner.layout.draft_name(draft.path()) else {
            return Err(Error::ForeignDraft {
                layer: draft.id().clone(),
            });
        };
        let layout = &self.inner.layout;
        let id = draft.id().clone();
        let layer = Layer {
            id: id.clone(),
            parent: draft.parent().cloned(),
            info,
        };
        let record = LayerRecord {
            layer,
            instance: instance.clone(),
            boot_id: self.inner.boot_id.clone(),
        };
        layout
            .drafts
            .write_record(&format!("{instance}/layer.json"), &record)?;
        berth_faults::at("layer.commit.before-rename")?;
        drop(self.inner.settle_layer(&id));
        let name = layout::layer_name(&id);
        if layout.rename_new(&layout.drafts, &instance, &layout.layers, &name)? {
            berth_faults::passing("layer.commit.after-rename");
            draft.keep();
            self.inner.state.lock().unsynced.insert(id, instance);
        }
        Ok(())
    }

    fn prepare(&self, key: &str, layers: &[ChainId]) -> Result<Vec<Mount>> {
        self.create(key, SnapshotKind::Writable, layers, None)
    }

    fn prepare_limited(&self, key: &str, layers: &[ChainId], bytes: u64) -> Result<Vec<Mount>> {
        self.can_limit()?;
        self.create(key, SnapshotKind::Writable, layers, Some(bytes))
    }

    fn can_limit(&self) -> Result<()> {
        self.inner.quotas.check(&self.inner.layout)
    }

    fn ease(&self, key: &str) -> Result<bool> {
        layout::check_key(key)?;
        let (layout, quotas) = (&self.inner.layout, &self.inner.quotas);
        let limit = self.inner.find(key)?.limit;
        // Where quotas are off by now nothing is in the way.
        Ok(limit.is_some_and(|bytes| quotas.ease(layout, key, bytes).is_ok()))
    }

    fn hold(&self, key: &str) -> Result<()> {
        layout::check_key(key)?;
        let (layout, quotas) = (&self.inner.layout, &self.inner.quotas);
        match self.inner.find(key)?.limit {
            Some(bytes) => quotas.limit_again(layout, key, bytes),
            None => Ok(()),
        }
    }

    fn view(&self, key: &str, layers: &[ChainId]) -> Result<Vec<Mount>> {
        self.create(key, SnapshotKind::View, layers, None)
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        layout::check_key(key)?;
        let snapshot = self.inner.find(key)?;
        let layout = &self.inner.layout;
        let stack = stack::resolve(layout, &snapshot.layers)?;
        if snapshot.kind == SnapshotKind::Writable {
            layout.allow_remount(key)?;
        }
        Ok(stack::mounts(layout, &snapshot, &stack))
    }

    fn remove(&self, key: &str) -> Result<()> {
        layout::check_key(key)?;
        let mut state = self.inner.settle(key);
        let limit = state.snapshots.get_mut(key).and_then(|tracked| {
            tracked.phase = Phase::Removing;
            tracked.snapshot.limit
        });
        drop(state);
        let (layout, quotas) = (&self.inner.layout, &self.inner.quotas);
        // A limit that outlives a crash here is set again at the next open.
        quotas.lift(layout, &layout.active, key);
        let removed = layout.to_trash(&layout.active, key);
        berth_faults::passing("snapshot.remove.after-rename");
        if let (Err(_), Some(bytes)) = (&removed, limit) {
            // One that stays unlimited is told of at the next open.
            let _ = quotas.limit_again(layout, key, bytes);
        }
        let mut state = self.inner.state.lock();
        match (&removed, state.snapshots.get_mut(key)) {
            (Err(_), Some(tracked)) => tracked.phase = Phase::Ready,
            _ => drop(state.snapshots.remove(key)),
        }
        drop(state);
        self.inner.settled.notify_all();
        removed
    }

    fn remove_layer(&self, id: &ChainId) -> Result<()> {
        self.inner.announce_layer_removal(id)?;
        let removed = self.inner.discard_layer(id);
        berth_faults::passing("layer.remove.after-rename");
        self.inner.state.lock().removing_layers.remove(id);
        self.inner.settled.notify_all();
        removed
    }

    fn retire_layer(&self, id: &ChainId) -> Result<()> {
        self.inner.retire(id)
    }

    fn layer_content(&self, id: &ChainId) -> Result<Option<OwnedFd>> {
        if self.inner.state.lock().removing_layers.contains(id) {
            return Ok(None);
        }
        let name = format!("{}/fs", layout::layer_name(id));
        match self.inner.layout.layers.open(&name) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn layer_usage(&self, id: &ChainId) -> Result<Usage> {
        let layers = &self.inner.layout.layers;
        let name = layout::layer_name(id);
        let record = format!("{name}/usage.json");
        // One that is damaged is counted again.
        if let Ok(Some(known)) = layers.read_record(&record) {
            return Ok(known);
        }
        let Some(content) = self.layer_content(id)? else {
            return Err(Error::LayerMissing { layer: id.clone() });
        };
        let counted = tree::measure(content).attempt("measuring", layers.path(&name))?;
        // On a full disk it is counted every time.
        let _ = layers.write_record(&record, &counted);
        Ok(counted)
    }

    fn purge_trash(&self) -> Result<u64> {
        self.inner.discard_retired()?;
        tree::purge(self.inner.layout.trash.fd())
            .attempt("emptying", self.inner.layout.trash.path(""))
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        layout::check_key(key)?;
        let snapshot = self.inner.find(key)?;
        if snapshot.kind == SnapshotKind::View {
            return Ok(Usage::default());
        }
        if snapshot.limit.is_some()
            && let Some(known) = self.inner.quotas.usage(&self.inner.layout, key)
        {
            return Ok(known);
        }
        let upper = format!("{key}/upper");
        let dir = self.inner.layout.active.open(&upper)?;
        tree::measure(dir).attempt("measuring", self.inner.layout.active.path(&upper))
    }

    fn layers(&self) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        for name in self.inner.layout.layers.list()? {
            match self.inner.layout.read_layer(&name) {
                Ok(Some(record)) => layers.push(record.layer),
                // Removed in the meantime, or damaged since the store was opened: no layer.
                Ok(None) | Err(Error::Record { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(layers)
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let state = self.inner.state.lock();
        let ready = state.snapshots.values().filter(|t| t.phase == Phase::Ready);
        Ok(ready.map(|t| Snapshot::clone(&t.snapshot)).collect())
    }

    fn sync(&self) -> Result<()> {
        let layout = &self.inner.layout;
        let flushed = self.inner.state.lock().unsynced.clone();
        if flushed.is_empty() {
            return Ok(());
        }
        flush(layout).map_err(|source| Error::Flush {
            path: layout.root.path(""),
            layers: flushed.keys().cloned().collect(),
            source,
        })?;
        berth_faults::at("layer.sync.after-flush")?;
        for (id, instance) in &flushed {
            // One that is removed meanwhile takes itself off this list before it removes its mark.
            let state = self.inner.state.lock();
            if state.unsynced.get(id) == Some(instance) {
                let name = layout::layer_name(id);
                layout
                    .durable
                    .touch(&layout::marker_name(&name, instance))?;
            }
        }
        berth_faults::at("layer.sync.after-marks")?;
        layout.durable.fsync()?;
        let mut state = self.inner.state.lock();
        state
            .unsynced
            .retain(|id, instance| flushed.get(id) != Some(instance));
        Ok(())
    }
}

fn flush(layout: &Layout) -> io::Result<()> {
    berth_faults::at("layer.sync.before-flush").map_err(io::Error::other)?;
    Ok(rustix::fs::syncfs(layout.root.fd())?)
}

#[cfg(test)]
mod tests;
