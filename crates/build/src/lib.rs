//! Images from Dockerfiles.
//!
//! ```text
//! Dockerfile ─► dockerfile (stages, instructions) ─► plan (bases, what the target needs)
//!                                                         │ one task per stage
//! context ─► tree ──────────────────────────────► steps ──┤ cache: key ─► image
//!                                                         ├ RUN:  sandbox ─► upper directory ─► layer
//!                                                         ├ COPY: tree ─► layer
//!                                                         └ exchange: caches elsewhere
//! ```
//!
//! Each step that makes a layer leaves an image without a name: the cache says which step it is the
//! outcome of. A step's key is made of what it stands on, its text with all variables, and the
//! content of what it reads, times left out.

mod archive;
mod attest;
mod builder;
mod cache;
mod collect;
mod compressed;
mod config;
mod copy;
mod copy_step;
pub mod dockerfile;
mod elsewhere;
mod emulation;
mod error;
mod exchange;
mod extract;
mod fetch;
mod git;
mod job;
mod layer;
mod lent;
mod mode;
mod plan;
mod ports;
mod record;
mod remote;
mod run_step;
mod sandbox;
mod steps;
mod transcript;
mod tree;
mod users;

use berth_ignore as ignore;

pub use attest::{Attest, Provenance};
pub use builder::{Builder, Request};
pub use collect::Keep;
pub use error::{Error, Result};
pub use exchange::{CacheSource, CacheTarget, CacheTo, Layout, LayoutFile};
pub use lent::{AgentCall, LARGEST_SECRET, Lent, Secret};
pub use record::{Record, What};
pub use sandbox::Limits;
pub use transcript::Said;
pub use tree::Context;
