//! Distribution client: finds out what a reference means, fetches manifests and blobs from
//! registries, and pushes them to registries, that speak the OCI distribution protocol (Docker Registry v2).
//!
//! # Where requests go
//!
//! `hosts.toml` files in containerd's format name mirrors per registry ([`RegistryConfig::hosts_dir`]).
//! Hosts are asked in the file's order, the registry itself last. A mirror gets one attempt; whatever
//! is wrong with its answer leads to the next host. The last host gets bounded retries with jitter,
//! and `Retry-After` is honoured. Without configuration a registry is reached by HTTPS; a loopback
//! host by plain HTTP, unless its port is 443.
//!
//! # Who learns credentials
//!
//! * Credentials belong to the registry that the image's name starts with. They go to that host, to
//!   what `server` in its `hosts.toml` names in its stead, and to nobody else: a mirror on another
//!   host authenticates with `header` entries of its own, or anonymously.
//! * A token server (`realm` of a Bearer challenge) is named by the registry and may be another host.
//!   It gets credentials when it is the registry's own origin, when both it and the registry use
//!   HTTPS, or when both are loopback. A registry reached without TLS cannot send credentials
//!   elsewhere, because anyone on the way could have written that challenge.
//! * Redirects are followed by hand. One to another origin carries no `Authorization`, none of the
//!   configured headers and no client certificate, its challenges are not answered, and it may not
//!   lead from HTTPS to plain HTTP.
//! * The `urls` of foreign layers are never asked.
//! * Secrets are of a type that prints as `***`; errors carry no URLs with queries.
//!
//! # What is trusted
//!
//! Nothing a registry says: manifests are hashed here ([`Resolved`]), blobs by whoever stores them.
//! `Docker-Content-Digest` is a hint only. No transfer has a total time limit; it is given up, and
//! resumed by `Range`, when no byte arrives for [`RegistryConfig::progress_timeout`].

mod auth;
mod blob;
mod challenge;
mod client;
mod config;
mod credentials;
mod error;
mod hosts;
mod hosts_file;
mod manifest;
mod push;
mod request;
mod retry;
mod search;
mod tags;
mod transport;

pub use blob::BlobStream;
pub use client::Client;
pub use config::RegistryConfig;
pub use credentials::{Credentials, Secret};
pub use error::{Error, Fault};
pub use hosts_file::{HostsError, Problem};
pub use manifest::{Resolved, media_type};
pub use push::{Pushed, Upload};
pub use search::Found;
pub use transport::choose_crypto;

pub type Result<T, E = Error> = std::result::Result<T, E>;
