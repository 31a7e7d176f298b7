//! The Docker door: Docker's Engine API over the same core that the CRI door uses.
//!
//! ```text
//! connection ─ server ─► version (path prefix) ─► routes ─► endpoint ─► core
//!                                                    └─ Error ─► {"message": …}
//! ```
//!
//! A request carries its version in the path; what comes after is routed as if there were one
//! version, and endpoints ask for [`ApiVersion`] where versions differ. Endpoints get the [`Engine`],
//! answer with [`Json`], a stream of progress ([`progress`]) or the bare connection ([`hijack`]), and
//! fail with [`Error`], whose status is decided there and nowhere else.

mod body;
mod build;
mod containers;
mod engine;
mod error;
mod events;
mod exec;
mod filters;
mod hijack;
mod images;
mod networks;
mod pieces;
mod progress;
mod query;
mod registry_auth;
mod routes;
mod server;
mod system;
mod unread;
mod version;
mod volumes;

pub use engine::{Engine, Facts};
pub use error::{Error, Result};
pub use server::{serve, serve_remote};

use body::Json;
use filters::Filters;
use query::Query;
use version::ApiVersion;
