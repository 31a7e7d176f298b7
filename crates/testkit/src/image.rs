//! Makes images out of files and pushes them to a registry.
//!
//! ```text
//! Layer (tree of entries) ─pack→ PackedLayer ─┐
//!                                             ├─ Recipe ─build→ Image ─Remote::push→ registry
//!              user, env, entrypoint, cmd … ──┘
//! ```
//!
//! The same recipe gives the same digests on every machine: entries are sorted,
//! times are zero, and gzip headers carry neither name nor time.

mod artifact;
mod http;
mod layer;
mod libraries;
mod recipe;
mod remote;
mod tar;

use std::io;
use std::path::PathBuf;

pub use artifact::Artifact;
pub use layer::{Compression, Layer, PackedLayer};
pub use recipe::{Format, Image, Recipe};
pub use remote::Remote;

/// Why an image could not be made or pushed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {} for a layer", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is neither a file, a directory nor a symbolic link", path.display())]
    UnfitFile { path: PathBuf },
    #[error("asking ldd for the libraries of {}", path.display())]
    Libraries { path: PathBuf, source: io::Error },
    #[error("{} needs {library}, which is not on this machine", path.display())]
    MissingLibrary { path: PathBuf, library: String },
    #[error("hard link {path} names {target}, which is not a file of the same layer")]
    DanglingLink { path: String, target: String },
    #[error("compressing a layer")]
    Compress(#[source] io::Error),
    #[error("encoding a {document}")]
    Encode {
        document: &'static str,
        source: serde_json::Error,
    },
    #[error("{method} {target} at registry {registry}")]
    Transport {
        method: &'static str,
        target: String,
        registry: String,
        source: io::Error,
    },
    #[error("{method} {target} at registry {registry}: status {status}: {body}")]
    Refused {
        method: &'static str,
        target: String,
        registry: String,
        status: u16,
        body: String,
    },
    #[error("registry {registry} accepted an upload to {target} without saying where")]
    NoUploadLocation { target: String, registry: String },
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;
