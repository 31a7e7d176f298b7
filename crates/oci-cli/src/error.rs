//! What can go wrong, in the words that callers of runc look for.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("flag provided but not defined: -{name}")]
    UnknownOption { name: String },
    #[error("flag needs an argument: -{name}")]
    ValueMissing { name: &'static str },
    #[error("invalid value {value:?} for flag -{name}")]
    InvalidOption { name: &'static str, value: String },
    #[error("berth-oci: {command:?} requires {expected} argument(s)")]
    ArgumentCount {
        command: &'static str,
        expected: &'static str,
    },
    #[error("No help topic for '{word}'")]
    UnknownCommand { word: String },
    #[error("invalid log-format: {format}")]
    LogFormat { format: String },
    #[error("invalid format option")]
    OutputFormat,
    #[error("Option --root argument should not be set to /")]
    RootIsSlash,
    #[error("{feature} is not supported; {instead}")]
    Unsupported {
        feature: &'static str,
        instead: &'static str,
    },

    #[error("invalid container ID format")]
    InvalidId,
    #[error("container with given ID already exists")]
    Exists,
    #[error("container does not exist")]
    NotExist,
    #[error("container not running")]
    NotRunning,
    #[error("container not paused")]
    NotPaused,
    #[error("cannot exec in a stopped container")]
    ExecInStopped,
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecInPaused,
    #[error("cannot start a container that has stopped")]
    StartStopped,
    #[error("cannot start an already running container")]
    StartRunning,
    #[error("cannot start a container in the {status} state")]
    StartOther { status: &'static str },
    #[error("cannot delete container {id} that is not stopped: {status}")]
    DeleteRunning { id: String, status: &'static str },
    #[error("container cannot be checkpointed in {status} state")]
    CheckpointIn { status: &'static str },
    #[error("criu is not installed: checkpoints are made and restored by it")]
    NoCriu,
    #[error("criu ended with {status}: {reason}")]
    Criu { status: String, reason: String },
    #[error("invalid --parent-path {path:?}: not a directory relative to the images")]
    ParentPath { path: String },
    #[error("unknown signal {word:?}")]
    UnknownSignal { word: String },
    #[error("exec args cannot be empty")]
    NoProgram,
    #[error("cannot allocate tty if berth-oci will detach without setting console socket")]
    TerminalWithoutSocket,
    #[error("cannot use console socket if berth-oci will not detach or allocate tty")]
    SocketWithoutTerminal,
    #[error("unable to stat preserved-fd {index} (of {count})")]
    PreservedDescriptor { index: u32, count: u16 },
    #[error("bad {what}: {value:?} is not a number")]
    User { what: &'static str, value: String },
    #[error("couldn't find PID field in ps output")]
    PsWithoutPid,
    #[error("ps ended with {status}: {output}")]
    Ps { status: String, output: String },

    #[error("cannot {operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot {operation}")]
    System {
        operation: &'static str,
        source: io::Error,
    },
    #[error("JSON specification file {path} not found")]
    NoSpec { path: PathBuf },
    #[error("cannot parse {path}")]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{path} has a form of version {version}, and this program knows up to {known}")]
    StateVersion {
        path: PathBuf,
        version: u32,
        known: u32,
    },
    #[error("cannot look at cgroups")]
    Cgroups(#[source] berth_cgroups::Error),
    #[error(transparent)]
    Executor(#[from] berth_executor::Error),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err`: a failed operation on a path.
    pub fn io<E: Into<io::Error>>(operation: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            operation,
            path,
            source: source.into(),
        }
    }

    /// For `map_err`: a failed call without a path.
    pub fn system<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            operation,
            source: source.into(),
        }
    }
}
