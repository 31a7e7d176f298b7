//! OCI bundle to running process.
//!
//! [`Container::create`] makes a process with one clone, without executing
//! the runtime's own binary again: the child sets up everything from the
//! parent's memory, tells each failure with its step and path, and waits at
//! the start gate. [`Container::exec`] adds processes. All calls are
//! synchronous; the caller has one thread, is the parent of what it makes,
//! and reaps it.
//!
//! Whatever an image or a volume can influence is opened once, inside the
//! root, and worked on by descriptor. Mounts are made detached and attached
//! in the container's namespace only; the host sees none of them. A container
//! without a namespace of its own gets a root that is attached nowhere.

mod cgroup_mount;
mod container;
mod devices;
mod error;
mod exec;
mod features;
mod filter;
mod hooks;
mod id_map;
mod identity;
mod init;
mod limits;
mod masks;
mod mount_options;
mod mounts;
mod namespaces;
mod notify;
mod options;
mod places;
mod plan;
mod process;
mod processes;
mod procfs;
mod program;
mod record;
mod refuse;
mod report;
mod resources;
mod restore;
mod rootfs;
mod shared_mounts;
mod spawn;
mod stamp;
mod stdio;
mod step;
mod user_namespace;

pub use container::{Container, Create, ProcessStdio, RootfsMount};
pub use error::{Error, ExecProblem, Result, chain};
pub use exec::Process;
pub use features::{SPEC_VERSION, features};
pub use hooks::{HookFailure, HookPoint, Hooks};
pub use options::{CreateOptions, ProcessOptions};
pub use record::{Found, Record, Remains, open_start_gate};
pub use restore::{Restore, RestoreOptions};
pub use stamp::{STAMP_LEN, Stamp};
pub use step::Step;
