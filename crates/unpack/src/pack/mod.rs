//! Directory tree to archive.

pub(crate) mod archive;
mod block;
mod layer;
pub(crate) mod listing;
mod tree;

pub use archive::Packed;
pub use layer::pack_layer;
pub use tree::{TreeOptions, is_window, pack_tree};
