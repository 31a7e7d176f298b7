//! The crate's errors, and the one place where an error becomes a ttrpc status.

use std::path::PathBuf;

use containerd_shim_protos::ttrpc::proto::{Code, Status};

/// What a call is answered with when it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn into_status(self) -> Status {
        let mut status = Status::new();
        status.code = self.code.into();
        status.message = self.message;
        status
    }
}

/// A failure of the executor, classified by the engine that called it.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct EngineError {
    pub operation: &'static str,
    pub code: Code,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
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
            Self::WrongState { .. } => Code::FAILED_PRECONDITION,
            Self::Path { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Code::INVALID_ARGUMENT
            }
            Self::Undying { .. } => Code::DEADLINE_EXCEEDED,
            Self::Encode { .. } | Self::Path { .. } | Self::System { .. } | Self::Cgroup { .. } => {
                Code::INTERNAL
            }
            Self::Engine(error) => error.code,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.code(), chain(&error))
    }
}

/// An error and all its sources on one line, for where it leaves the process.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
