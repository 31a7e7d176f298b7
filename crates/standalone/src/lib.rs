//! Containers that stand alone, as Docker's users know them: named, kept until they are removed,
//! started again and again on the same writable layer, with volumes that outlive them.
//!
//! ```text
//!   Containers ── one task per container ──▶ lifecycle: a pod and a container for each run
//!       │                                          on a layer that stays (`Runtime::make_layer`)
//!       ├─ names, records (durable)
//!       └─ Volumes
//! ```
//!
//! A run is disposable: its pod, network and cgroup go with its end. What a user made is the
//! record, the layer and the volumes, and those are durable before `create` answers. What runs
//! outlives the daemon: [`Containers::open`] takes it over.

mod checkpoints;
mod config;
mod container;
mod containers;
mod endpoint;
mod error;
mod event;
mod exec;
mod files;
mod health;
mod house;
mod layer_size;
mod limits;
mod links;
mod local;
mod logs;
mod mailbox;
mod mounts;
mod name;
mod networks;
mod plugged;
mod policy;
mod ports;
mod record;
mod request;
mod root;
mod sharing;
mod step;
mod task;
mod volume_dirs;
mod volumes;

pub use checkpoints::CheckpointDraft;
pub use config::{
    Config, Healthcheck, HostConfig, LogConfig, Mount, NetworkingConfig, PortBinding,
    RestartPolicy, Ulimit,
};
pub use container::Container;
pub use containers::{Containers, Draft, Places};
pub use endpoint::{EndpointAddresses, EndpointSettings};
pub use error::{Error, Kind, Result};
pub use event::Event;
pub use exec::{Command, Commands};
pub use health::{Checked, Health, HealthStatus};
pub use logs::{LogLine, LogQuery, Logs};
pub use plugged::ShownVolume;
pub use record::{MountPoint, Phase, Record};
pub use root::ContainerRoot;
pub use step::StepLimits;
pub use task::{Attachment, StopWish};
pub use volumes::{Volume, VolumeDraft, Volumes};
