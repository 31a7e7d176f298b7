//! The seam between image layers and the filesystem technique that stacks them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_names::{ChainId, Digest};
use serde::{Deserialize, Serialize};

use crate::error::Result;

/// One mount to be made by whoever prepares the root filesystem, in the words of the
/// containerd Task API. Several mounts of one snapshot are made in order, on the same target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Filesystem type: `overlay` or `bind`.
    pub kind: String,
    pub source: String,
    /// Path inside the root filesystem; empty for the root itself.
    pub target: String,
    pub options: Vec<String>,
}

/// What is known of a layer's content when it is committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Bytes that the layer's content takes.
    pub size: u64,
    /// Files, directories and other inodes of the layer.
    pub inodes: u64,
}

/// A committed layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub id: ChainId,
    pub parent: Option<ChainId>,
    pub info: LayerInfo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// A writable layer over image layers.
    Writable,
    /// Image layers, read-only.
    View,
}

/// A snapshot as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub key: String,
    pub kind: SnapshotKind,
    /// Bottom to top.
    pub layers: Vec<ChainId>,
    /// Bytes that may be written to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Space taken by what was written to a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes (blocks, so holes are free), each inode counted once.
    pub bytes: u64,
    pub inodes: u64,
}

/// A layer being filled. Dropping it discards what was written.
pub struct LayerDraft {
    id: ChainId,
    parent: Option<ChainId>,
    path: PathBuf,
    dir: OwnedFd,
    discard: Option<Box<dyn FnOnce() + Send>>,
}

impl LayerDraft {
    /// For implementations: `path` is the directory to fill, `dir` a descriptor of it,
    /// `discard` undoes the draft if it is dropped before [`LayerDraft::keep`].
    pub fn new(
        id: ChainId,
        parent: Option<ChainId>,
        path: PathBuf,
        dir: OwnedFd,
        discard: Box<dyn FnOnce() + Send>,
    ) -> Self {
        Self {
            id,
            parent,
            path,
            dir,
            discard: Some(discard),
        }
    }

    pub fn id(&self) -> &ChainId {
        &self.id
    }

    pub fn parent(&self) -> Option<&ChainId> {
        self.parent.as_ref()
    }

    /// The directory that becomes the layer's content.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor of [`LayerDraft::path`]: archives are applied beneath it.
    pub fn dir_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// For implementations: the content now belongs to a layer, dropping discards nothing.
    pub fn keep(mut self) {
        self.discard = None;
    }
}

impl Drop for LayerDraft {
    fn drop(&mut self) {
        if let Some(discard) = self.discard.take() {
            discard();
        }
    }
}

/// Keeps image layers and the writable layers of containers.
///
/// Calls block on the filesystem; callers in async code cross over with a blocking job.
/// Every method may be called from several threads at once.
pub trait Snapshotter: Send + Sync {
    /// A committed layer, or `None`.
    fn layer(&self, id: &ChainId) -> Result<Option<LayerInfo>>;

    /// Starts to fill a layer. The parent need not be here yet: layers of one image may be
    /// unpacked at the same time. Several drafts of one layer may exist; the first commit wins.
    fn begin_layer(&self, id: &ChainId, parent: Option<&ChainId>) -> Result<LayerDraft>;

    /// Makes the draft visible as a layer, atomically. If the layer exists by now, the draft is
    /// discarded and the call succeeds. The content is durable only after [`Snapshotter::sync`].
    fn commit(&self, draft: LayerDraft, info: LayerInfo) -> Result<()>;

    /// Makes a writable snapshot over `layers` (bottom to top, may be empty).
    fn prepare(&self, key: &str, layers: &[ChainId]) -> Result<Vec<Mount>>;

    /// The same, with a limit of so many bytes on what is written to it: beyond that writes fail with
    /// `EDQUOT` or `ENOSPC`. Fails before anything is done as [`Snapshotter::can_limit`] does.
    fn prepare_limited(&self, key: &str, layers: &[ChainId], bytes: u64) -> Result<Vec<Mount>>;

    /// Whether snapshots can be limited here and now; the error says what it takes.
    fn can_limit(&self) -> Result<()>;

    /// Lets a limited snapshot that is written full be mounted for writing: the kernel makes directories
    /// of its own then, and mounts read-only where it cannot. Says whether [`Snapshotter::hold`] is to
    /// follow once it is mounted.
    fn ease(&self, key: &str) -> Result<bool>;

    /// Holds a snapshot to its limit again.
    fn hold(&self, key: &str) -> Result<()>;

    /// Makes a read-only snapshot of `layers` (bottom to top, may be empty).
    fn view(&self, key: &str, layers: &[ChainId]) -> Result<Vec<Mount>>;

    /// The mounts of an existing snapshot, ready for mounting again after a crash.
    fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Forgets a snapshot and moves its content to the trash, whatever its size, at once.
    /// Succeeds if there is none: undo may run twice. The caller has unmounted it.
    fn remove(&self, key: &str) -> Result<()>;

    /// The same for a layer; fails with `LayerInUse` while a snapshot stands on it.
    fn remove_layer(&self, id: &ChainId) -> Result<()>;

    /// Takes a layer whose content is bad out of sight, so that a good one can be committed under
    /// its id. Snapshots that stand on it keep what they have mounted; it goes with the last of
    /// them. Mounted anew, they stand on whatever layer has the id then. Succeeds if there is none.
    fn retire_layer(&self, id: &ChainId) -> Result<()>;

    /// The content of a layer, for reading; `None` if there is no such layer.
    fn layer_content(&self, id: &ChainId) -> Result<Option<OwnedFd>>;

    /// What a layer takes on disk. Counted once: layers do not change.
    fn layer_usage(&self, id: &ChainId) -> Result<Usage>;

    /// Deletes what is in the trash and returns how many inodes went. May take long.
    fn purge_trash(&self) -> Result<u64>;

    /// What a writable snapshot takes, counted now; one that is limited is not counted, the file system
    /// knows. Zero for views.
    fn usage(&self, key: &str) -> Result<Usage>;

    fn layers(&self) -> Result<Vec<Layer>>;

    fn snapshots(&self) -> Result<Vec<Snapshot>>;

    /// Makes all layers committed before the call durable, with one syncfs; with none if all are.
    fn sync(&self) -> Result<()>;
}
