//! What can go wrong with pods and containers, in terms that a door can map to its statuses.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use berth_names::{ContainerId, SandboxId};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The exit code of a container that never ran, for whatever is not the program's own fault.
const START_FAILED: i32 = 128;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("pod sandbox {0:?} not found")]
    PodNotFound(String),
    #[error("container {0:?} not found")]
    ContainerNotFound(String),
    #[error("{kind} {prefix:?} is ambiguous: give more characters of the id")]
    Ambiguous { kind: &'static str, prefix: String },
    #[error("image {image:?} is not present: pull it first")]
    ImageMissing { image: String },
    #[error("a pod sandbox named {key:?} exists already: {id}")]
    PodExists { key: String, id: SandboxId },
    #[error("a container named {key:?} exists already: {id}")]
    ContainerExists { key: String, id: ContainerId },
    #[error("pod sandbox {id} is {state}: it must be ready to {action}")]
    PodState {
        id: SandboxId,
        state: &'static str,
        action: &'static str,
    },
    #[error("container {id} is {state}: it must be {expected} to {action}")]
    ContainerState {
        id: ContainerId,
        state: &'static str,
        expected: &'static str,
        action: &'static str,
    },
    #[error("{field}: {problem}")]
    Invalid {
        field: &'static str,
        problem: String,
    },
    #[error("user {user:?} is not in the image's /etc/passwd")]
    UnknownUser { user: String },
    #[error("group {group:?} is not in the image's /etc/group")]
    UnknownGroup { group: String },
    #[error("cannot {action} {path:?}")]
    State {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {path} of the image")]
    ImageFile {
        path: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("seccomp profile {path:?} cannot be used")]
    SeccompFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("seccomp profile {path:?} is not valid")]
    SeccompProfile {
        path: PathBuf,
        #[source]
        source: berth_seccomp::Error,
    },
    #[error("image {image:?} cannot be mounted at {path:?}")]
    ImageVolume {
        image: String,
        path: String,
        #[source]
        source: Box<Error>,
    },
    #[error("cannot copy the image's {path:?} into its volume")]
    VolumeCopy {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the snapshotter has no plain directory for volume {key}")]
    NoVolume { key: String },
    #[error(transparent)]
    Cdi(#[from] berth_cdi::Error),
    #[error("the container's specification cannot be formed")]
    Spec(#[from] oci_spec::OciSpecError),
    #[error("metadata store")]
    Store {
        #[source]
        source: berth_metadata::Error,
    },
    #[error("image store")]
    Images(#[from] berth_images::Error),
    #[error("snapshot of {id}")]
    Snapshot {
        id: String,
        #[source]
        source: berth_snapshots::Error,
    },
    #[error("network of pod {id}")]
    Network {
        id: SandboxId,
        #[source]
        source: berth_network::Error,
    },
    #[error("cgroup {path}")]
    Cgroup {
        path: String,
        #[source]
        source: berth_cgroups::Error,
    },
    #[error("cannot {action} container {id}")]
    Shim {
        action: &'static str,
        id: String,
        #[source]
        source: berth_shim_client::Error,
    },
    /// The program could not be found or executed; the shim's words name it.
    #[error("container {id}: {message}")]
    Program {
        id: String,
        /// As shells tell it: 127 where there is none, 126 where it cannot run.
        exit_code: i32,
        message: String,
    },
    #[error("runtime_handler: {name:?} is not configured; there are {known}")]
    UnknownHandler { name: String, known: String },
    #[error("checkpoints cannot be made or restored on this host: {reason}")]
    CheckpointUnavailable { reason: String },
    #[error("cannot checkpoint container {id}: {reason}")]
    Checkpoint { id: ContainerId, reason: String },
    #[error("the checkpoint of container {id} was not done within {limit:?}")]
    CheckpointTimeout { id: ContainerId, limit: Duration },
    #[error("command {command:?} did not finish within {timeout:?}")]
    ExecTimeout { command: String, timeout: Duration },
    #[error("container {id} did not stop: its processes are still there after {waited:?}")]
    WillNotStop { id: ContainerId, waited: Duration },
    #[error("the task of {id} ended: {action} was not carried out")]
    TaskGone { id: String, action: &'static str },
    /// The failure of an operation that several callers waited for.
    #[error(transparent)]
    Shared(std::sync::Arc<Error>),
    /// Only ever in builds for tests.
    #[error(transparent)]
    Fault(#[from] berth_faults::Injected),
}

impl Error {
    /// The error itself, where several callers were given it.
    pub fn root(&self) -> &Error {
        match self {
            Error::Shared(inner) => inner.root(),
            other => other,
        }
    }

    /// How a failed call to a shim is told, by what the shim says of it.
    pub(crate) fn of_shim(
        action: &'static str,
        id: &str,
    ) -> impl FnOnce(berth_shim_client::Error) -> Self + use<> {
        let id = id.to_owned();
        move |source| match source.exit_status() {
            Some(status) => Error::Program {
                id,
                exit_code: i32::try_from(status).unwrap_or(START_FAILED),
                message: source.to_string(),
            },
            None => Error::Shim { action, id, source },
        }
    }

    /// The exit code of a container that this error kept from starting.
    pub(crate) fn exit_code(&self) -> i32 {
        match self.root() {
            Error::Program { exit_code, .. } => *exit_code,
            _ => START_FAILED,
        }
    }

    pub fn invalid(field: &'static str, problem: impl Into<String>) -> Self {
        Error::Invalid {
            field,
            problem: problem.into(),
        }
    }
}

/// The message of `error` with those of its sources, as a person should read it.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
