//! Archives of images: `docker save`'s, old and new, and OCI image layouts.
//!
//! What is written is both at once, as Docker's are since version 25:
//!
//! ```text
//! oci-layout, index.json      an OCI layout: manifests with names as annotations
//! blobs/sha256/<hex>          manifests, configs and layers, as they are stored here
//! manifest.json, repositories the same for tools that know Docker's own form alone
//! ```

mod contents;
mod load;
mod save;

pub use load::Loaded;
pub use save::Chosen;
pub(crate) use save::{Archive, gone};

/// Where containerd and Docker write an image's full name into an index.
const NAME: &str = "io.containerd.image.name";
/// Where OCI writes a tag, and some tools a full name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
