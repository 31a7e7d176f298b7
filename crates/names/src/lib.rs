//! Identifiers of the field: content digests, image references, chain ids, pod and container ids;
//! and durations and sizes as they are written there.
//!
//! Everything here is parsed once, at a door or when a record is read, and is valid from then on.
//! Nothing here does I/O.

mod digest;
mod duration;
mod id;
mod reference;
mod size;

pub use digest::{Algorithm, ChainId, Digest, DigestError};
pub use duration::{go_duration, to_go_duration};
pub use id::{ContainerId, EndpointId, IdError, NetworkId, SandboxId, short};
pub use reference::{ImageRef, ReferenceError};
pub use size::bytes;
