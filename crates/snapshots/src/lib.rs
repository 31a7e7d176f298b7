//! Image layers and writable layers.
//!
//! [`Snapshotter`] is the seam; [`Overlay`] keeps layers as directories that OverlayFS stacks.
//! Nothing here mounts: a snapshot is handed out as a list of [`Mount`]s, which the executor
//! makes in the container's own mount namespace.

#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod overlay;
mod snapshotter;

pub use error::{Error, Result};
pub use overlay::{Overlay, Recovery};
pub use snapshotter::{
    Layer, LayerDraft, LayerInfo, Mount, Snapshot, SnapshotKind, Snapshotter, Usage,
};
