//! The crate's errors, and the one place where an error becomes a ttrpc status.

use std::path::PathBuf;

use berth_cgroups::Blame;
pub use berth_executor::chain;
use containerd_shim_protos::api::WaitResponse;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::{Any, Code, Status};

/// What a call is answered with when it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
    /// The exit status by which shells tell that a program could not be run.
    pub exit_status: Option<u8>,
}

/// Names the detail of a failure that carries an exit status; the value has the shape of a
/// `WaitResponse`.
pub const EXIT_STATUS_TYPE: &str = "berth.shim.v1.ExitStatus";

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            exit_status: None,
        }
    }

    pub(crate) fn into_status(self) -> Status {
        let mut status = Status::new();
        status.code = self.code.into();
        status.message = self.message;
        status
            .details
            .extend(self.exit_status.map(exit_status_detail));
        status
    }
}

fn exit_status_detail(exit_status: u8) -> Any {
    let mut message = WaitResponse::new();
    message.exit_status = exit_status.into();
    let mut detail = Any::new();
    EXIT_STATUS_TYPE.clone_into(&mut detail.type_url);
    // Encoding a message of one number into memory does not fail.
    detail.value = message.write_to_bytes().unwrap_or_default();
    detail
}

/// A failure of an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A step beside the executor, which has to be named.
    #[error("{operation}")]
    Step {
        operation: &'static str,
        code: Code,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The executor's errors say themselves what was attempted.
    #[error(transparent)]
    Executor(#[from] berth_executor::Error),
}

impl EngineError {
    fn code(&self) -> Code {
        use berth_executor::Error as Executor;
        match self {
            Self::Step { code, .. } => *code,
            Self::Executor(error) => match error {
                Executor::InvalidSpec { .. } | Executor::ExecFailed { .. } => {
                    Code::INVALID_ARGUMENT
                }
                Executor::Unsupported { .. } => Code::UNIMPLEMENTED,
                Executor::NotRunning { .. }
                | Executor::AlreadyStarted { .. }
                | Executor::SeccompAgent { .. }
                | Executor::StillRunning { .. } => Code::FAILED_PRECONDITION,
                Executor::Timeout { .. } => Code::DEADLINE_EXCEEDED,
                Executor::Cgroup { source, .. } => match source.blame() {
                    Blame::Request => Code::INVALID_ARGUMENT,
                    Blame::Usage => Code::FAILED_PRECONDITION,
                    Blame::Host => Code::INTERNAL,
                },
                Executor::Seccomp { .. }
                | Executor::Host { .. }
                | Executor::Restore { .. }
                | Executor::Setup { .. }
                | Executor::Hook { .. }
                | Executor::ChildDied { .. } => Code::INTERNAL,
            },
        }
    }

    fn exit_status(&self) -> Option<u8> {
        match self {
            Self::Step { .. } => None,
            Self::Executor(error) => error.exit_status(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{service} is not served here")]
    UnknownService { service: String },
    #[error("{service} has no method {method}")]
    UnknownMethod { service: String, method: String },
    #[error("{method} is not supported")]
    Unsupported { method: &'static str },
    #[error("the message of {method} cannot be decoded")]
    Decode {
        method: String,
        source: containerd_shim_protos::protobuf::Error,
    },
    #[error("the answer cannot be encoded")]
    Encode {
        source: containerd_shim_protos::protobuf::Error,
    },
    #[error("container {id} not found")]
    NoContainer { id: String },
    #[error("exec {exec_id} of container {id} not found")]
    NoExec { id: String, exec_id: String },
    #[error("container {id} already exists")]
    ContainerExists { id: String },
    #[error("exec {exec_id} already exists")]
    ExecExists { exec_id: String },
    #[error("logging program {path} {problem}", path = path.display())]
    Logger { path: PathBuf, problem: String },
    #[error("process already finished")]
    Finished,
    #[error("{what} is {state}, which does not allow {operation}")]
    WrongState {
        what: String,
        state: &'static str,
        operation: &'static str,
    },
    #[error("{field} is not valid: {value:?}")]
    Argument { field: &'static str, value: String },
    #[error("{operation} {path}", path = path.display())]
    Path {
        operation: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{operation}")]
    System {
        operation: &'static str,
        source: std::io::Error,
    },
    #[error("remove cgroup of {id}")]
    Cgroup {
        id: String,
        source: berth_cgroups::Error,
    },
    #[error("criu is not installed: checkpoints are written and restored by it")]
    NoCriu,
    #[error("criu could not write down {id}, and ended with {status}: {reason}")]
    Dump {
        id: String,
        status: u32,
        reason: String,
    },
    #[error("process {pid} did not die")]
    Undying { pid: i32 },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Error {
    pub(crate) fn path(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self::Path {
            operation,
            path: path.into(),
            source: source.into(),
        }
    }

    pub(crate) fn system(operation: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self::System {
            operation,
            source: source.into(),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::UnknownService { .. } | Self::UnknownMethod { .. } | Self::Unsupported { .. } => {
                Code::UNIMPLEMENTED
            }
            Self::Decode { .. } | Self::Argument { .. } => Code::INVALID_ARGUMENT,
            Self::NoContainer { .. } | Self::NoExec { .. } | Self::Finished => Code::NOT_FOUND,
            Self::ContainerExists { .. } | Self::ExecExists { .. } => Code::ALREADY_EXISTS,
            Self::WrongState { .. } | Self::NoCriu => Code::FAILED_PRECONDITION,
            Self::Path { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Code::INVALID_ARGUMENT
            }
            Self::Undying { .. } => Code::DEADLINE_EXCEEDED,
            Self::Encode { .. }
            | Self::Path { .. }
            | Self::System { .. }
            | Self::Cgroup { .. }
            | Self::Logger { .. }
            | Self::Dump { .. } => Code::INTERNAL,
            Self::Engine(error) => error.code(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit_status = match &error {
            Error::Engine(error) => error.exit_status(),
            _ => None,
        };
        Self {
            exit_status,
            ..Self::new(error.code(), chain(&error))
        }
    }
}
