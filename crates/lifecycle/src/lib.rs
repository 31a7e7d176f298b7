//! Pods and containers as state machines.
//!
//! Each pod and each container is owned by one task ([`pod`], [`container`]); the rest of the
//! program reads immutable records and sends requests. What is asked for is in [`request`], what is
//! known in [`record`], and [`Runtime`] is the door to all of it. Steps that acquire name their
//! undo (`undo`); a repeated request joins the first (`reservations`); a restart rebuilds
//! everything from the runtime directory and the shims (`recovery`).

mod attach;
mod boot;
mod cgroup_driver;
mod checkpoint;
mod confinement;
mod container;
mod core;
mod error;
mod events;
mod exec;
mod files;
mod forward;
pub mod handlers;
mod image_root;
mod index;
mod layers;
mod left_cgroups;
mod made_cgroups;
mod mailbox;
mod pod;
mod private;
pub mod record;
mod recovery;
pub mod request;
mod reservations;
mod restore;
mod root;
mod runtime;
mod shim;
mod shown;
pub mod signal;
mod spec;
mod stats;
mod undo;
mod user;
mod volumes;

pub use attach::AttachControl;
pub use berth_cdi::{DEFAULT_DIRECTORIES as DEFAULT_CDI_DIRS, Error as CdiError};
/// What a shim answered, for those who tell errors apart.
pub use berth_shim_client::Error as ShimError;
pub use berth_snapshots::Usage as WritableUsage;
pub use cgroup_driver::CgroupDriver;
pub use checkpoint::Afterwards;
pub use confinement::Confinement;
pub use container::Container;
pub use core::{Config, Parts};
pub use error::{Error, Result, chain};
pub use events::{Event, EventKind, Lagged, Subscription};
pub use exec::{CommandControl, ExecOutput, ExecRequest, Pipes, StdStreams};
pub use pod::{Pod, user_namespaces_supported_at};
pub use recovery::Recovered;
pub use root::{Missing, Root, VolumeMount, WritableLayer};
pub use runtime::Runtime;
pub use spec::{capabilities_to_give, seccomp_supported};
pub use stats::{
    Census, ContainerSample, Depth, Details, Filesystem, PodSample, Processes, TaskStates,
    filesystem,
};
