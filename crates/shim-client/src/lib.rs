//! The daemon's side of a shim: launching it, finding it again, and calling it.
//!
//! [`Launcher`] starts Berth's own shim, [`ForeignShim`] any other that follows
//! the containerd shim protocol; both end in a [`Shim`], whose methods are the
//! Task API. A `Shim` is cheap to clone and its calls may be made concurrently;
//! dropping a call's future abandons the answer, never the operation.
//!
//! When a shim dies, all its pending calls fail with an error for which
//! [`Error::is_gone`] holds, and [`Shim::gone`] completes. The container's
//! processes may outlive it: whoever sees `gone` calls [`Launcher::clean_up`],
//! which kills them by their cgroup and removes what is left.

mod copier;
mod error;
mod exit_record;
mod foreign;
mod launcher;
mod options;
mod rpc;
mod shim;
mod socket;
mod types;
mod zygote;

pub use error::{Code, Error};
pub use exit_record::{ExitRecord, read_exit_record};
pub use foreign::ForeignShim;
pub use launcher::Launcher;
pub use options::{CONFIG_OPTIONS, OptionValue, RUNC_OPTIONS, config_options, runc_options};
pub use shim::Shim;
pub use types::{Checkpoint, Exit, Mount, Stdio, TaskState, TaskStatus};
