//! Devices by name: the Container Device Interface (CDI), up to version 1.1.0 of its specification.
//!
//! Vendors describe in files what a container needs for a device: nodes, mounts, variables, hooks.
//! [`Devices`] reads the directories of such files, [`requested`] tells which devices a container
//! asks for, and [`Edits::apply`] changes its OCI specification.
//!
//! Files that are wrong take no others along: they are reported in the log, and in the error of
//! whoever asks for a device that is not found.

mod devices;
mod document;
mod edits;
mod error;
mod name;

pub use devices::Devices;
pub use edits::Edits;
pub use error::{Error, Result};
pub use name::{ANNOTATION_PREFIX, DeviceName, requested};

/// Where files are looked for, the later directory winning over the earlier: what is installed,
/// and what is made at run time.
pub const DEFAULT_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
