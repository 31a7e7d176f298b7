//! What can go wrong between the daemon and a shim.

use std::path::PathBuf;

pub use containerd_shim_protos::ttrpc::proto::Code;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {path}", path = path.display())]
    Path {
        operation: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("launch shim of {id}")]
    Launch { id: String, source: std::io::Error },
    #[error("no shim answers for {id} at {path}", path = path.display())]
    NotRunning {
        id: String,
        path: PathBuf,
        source: std::io::Error,
    },
    /// The shim answered with an error, in words of its own.
    #[error("{message}")]
    Refused {
        method: &'static str,
        id: String,
        code: Code,
        message: String,
        /// How shells tell that a program could not be run: 126 or 127.
        exit_status: Option<u32>,
    },
    #[error("{method} of {id}: the connection to the shim was lost")]
    Gone {
        method: &'static str,
        id: String,
        source: ttrpc::Error,
    },
    #[error("encode {what} of {id}")]
    Encode {
        what: &'static str,
        id: String,
        source: serde_json::Error,
    },
    #[error("encode {method} of {id}")]
    Message {
        method: &'static str,
        id: String,
        source: containerd_shim_protos::protobuf::Error,
    },
    #[error("{method} of {id}: the answer cannot be understood")]
    Answer {
        method: &'static str,
        id: String,
        source: containerd_shim_protos::protobuf::Error,
    },
    #[error("the shim of {id} did not follow the start protocol: {output:?}")]
    Protocol { id: String, output: String },
    #[error("{action} of the shim of {id} failed with {status}: {output}")]
    Action {
        action: &'static str,
        id: String,
        status: std::process::ExitStatus,
        output: String,
    },
    #[error("{action} of the shim of {id} took too long")]
    TimedOut { action: &'static str, id: String },
    #[error("the log of {id} cannot be written: {reason}")]
    Copier { id: String, reason: String },
    #[error("exit record {path}", path = path.display())]
    ExitRecord {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl Error {
    /// The status that the shim answered with.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The exit status that stands for a program that could not be run.
    pub fn exit_status(&self) -> Option<u32> {
        match self {
            Self::Refused { exit_status, .. } => *exit_status,
            _ => None,
        }
    }

    /// The container or exec does not exist, or its process has finished.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NOT_FOUND)
    }

    /// What was asked for can be granted to no container of this host.
    pub fn is_invalid_argument(&self) -> bool {
        self.code() == Some(Code::INVALID_ARGUMENT)
    }

    pub fn is_already_exists(&self) -> bool {
        self.code() == Some(Code::ALREADY_EXISTS)
    }

    pub fn is_failed_precondition(&self) -> bool {
        self.code() == Some(Code::FAILED_PRECONDITION)
    }

    pub fn is_deadline_exceeded(&self) -> bool {
        self.code() == Some(Code::DEADLINE_EXCEEDED) || matches!(self, Self::TimedOut { .. })
    }

    /// The shim is dead, or was not there.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::NotRunning { .. })
    }
}

pub(crate) fn path_error(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::Path {
        operation,
        path,
        source,
    }
}
