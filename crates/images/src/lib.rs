//! Images: pulling them, what references mean, what they take, and collecting what nothing needs.
//!
//! # A pull
//!
//! ```text
//! reference ─ resolve ─► index ─ platform ─► manifest ─► config ─► layers, in parallel ─► sync
//!                                                                                     ─► record
//! one layer:   registry ─► sha256 + blob file ─► inflate ─► sha256 ─► untar into a layer draft
//! ```
//!
//! One pass, through bounded channels. Everything is verified before it becomes visible, and the
//! record, which makes the reference visible, is written after the data is synced. Pulls of the
//! same reference with the same credentials share one flight; different flights share layers.
//!
//! # Identity, as Kubernetes sees it
//!
//! An image's id is the digest of its config. References (tags and `repository@digest` of the
//! top-level manifest or index as it was pulled) point to images; a tag that moves leaves its old
//! image with its repository digest. An image that no reference names any more stays until it is
//! removed. Removing an image by whatever name removes all its references.
//!
//! # What keeps content
//!
//! Blobs stay as long as an image or a lease needs them, layers also as long as a snapshot stands
//! on them. What is being pulled is held in memory; after a crash it is garbage, except partial
//! blobs, which are resumed for a day.

mod archive;
mod artifact;
mod attest;
mod behind;
mod bridge;
mod catalog;
mod checkpoint;
mod collect;
mod document;
mod durable;
mod error;
mod flight;
mod holds;
mod image;
mod images;
mod index;
mod intake;
mod keyed;
mod layer;
mod manifest;
mod meters;
mod names;
mod platform;
mod pull;
mod push;
mod scrub;
mod stored;
mod unpacking;
mod values;
mod watch;

#[cfg(test)]
mod tests;

pub use archive::{Chosen, Loaded};
pub use attest::{Attestation, package_url};
pub use collect::Collected;
pub use error::{Error, ErrorKind};
pub use holds::Hold;
pub use image::{Healthcheck, Image, ImageConfig};
pub use images::{Config, FsUsage, ImageUsage, Images};
pub use intake::{Intake, Section};
pub use meters::Meters;
pub use names::{Reference, Untagged};
pub use platform::Platform;
pub use push::{PushPhase, PushProgress, PushWatch, PushedImage};
pub use scrub::{Pace, Scrubbed};
pub use stored::{Packing, StoredLayer};
pub use watch::{LayerProgress, Phase, PullWatch};

pub type Result<T, E = Error> = std::result::Result<T, E>;
