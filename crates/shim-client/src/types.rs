//! The values that calls take and give.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;

use crate::error::Error;

/// A mount of the root filesystem, to be made by the shim below the bundle's
/// `rootfs` (or `target` in it).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    pub kind: String,
    pub source: String,
    pub target: String,
    pub options: Vec<String>,
}

/// Standard streams: each empty (`/dev/null`), an absolute path of a FIFO, or,
/// for outputs of Berth's own shim, `cri-log:///absolute/path`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stdio {
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

/// Images of criu that a container is restored from, where its log goes, and the program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    pub images: PathBuf,
    pub work: PathBuf,
    pub criu: PathBuf,
}

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 plus the signal.
    pub status: u32,
    pub exited_at: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    Unknown,
    Created,
    Running,
    Stopped,
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskState {
    pub status: TaskStatus,
    /// In the daemon's pid namespace; 0 before the process was started.
    pub pid: u32,
    /// Set when `status` is `Stopped`.
    pub exit: Option<Exit>,
}

impl TaskState {
    pub(crate) fn from_message(message: &api::StateResponse) -> Self {
        let status = match message.status.enum_value() {
            Ok(api::Status::CREATED) => TaskStatus::Created,
            Ok(api::Status::RUNNING) => TaskStatus::Running,
            Ok(api::Status::STOPPED) => TaskStatus::Stopped,
            Ok(api::Status::PAUSED | api::Status::PAUSING) => TaskStatus::Paused,
            Ok(api::Status::UNKNOWN) | Err(_) => TaskStatus::Unknown,
        };
        let stopped = status == TaskStatus::Stopped;
        Self {
            status,
            pid: message.pid,
            exit: stopped.then(|| Exit::new(message.exit_status, message.exited_at.as_ref())),
        }
    }
}

impl Exit {
    /// From what the `delete` action of a shim's binary printed.
    pub(crate) fn of_deletion(id: &str, printed: &[u8]) -> Result<Self, Error> {
        let answer = api::DeleteResponse::parse_from_bytes(printed);
        let answer = answer.map_err(|source| Error::Answer {
            method: "delete",
            id: id.to_owned(),
            source,
        })?;
        Ok(Self::new(answer.exit_status, answer.exited_at.as_ref()))
    }

    /// A missing or impossible time becomes the epoch: the shim's word is not
    /// trusted to be in range.
    pub(crate) fn new(status: u32, at: Option<&Timestamp>) -> Self {
        let since_epoch = at.and_then(|at| {
            let seconds = u64::try_from(at.seconds).ok()?;
            let nanos = u32::try_from(at.nanos)
                .ok()
                .filter(|nanos| *nanos < 1_000_000_000)?;
            Some(Duration::new(seconds, nanos))
        });
        let exited_at = since_epoch.and_then(|since| UNIX_EPOCH.checked_add(since));
        Self {
            status,
            exited_at: exited_at.unwrap_or(UNIX_EPOCH),
        }
    }
}
