//! What keeps an ordinary user from a daemon.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error("cannot {action}")]
    Kernel {
        action: &'static str,
        source: io::Error,
    },

    /// The user may have no other ids.
    #[error(
        "user {user} has no ids of its own in {file}: as root, run \
         `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}`, with a range \
         that nobody else has"
    )]
    NoIds { user: String, file: &'static str },

    #[error("{program} is not installed: on Debian it is in the package {package}")]
    NoProgram {
        program: &'static str,
        package: &'static str,
    },

    #[error("{program} failed: {told}")]
    Program { program: &'static str, told: String },

    /// The process that was to keep the namespaces.
    #[error("no namespaces for an ordinary user: {told}")]
    Holder { told: String },
}

impl Error {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }

    pub(crate) fn kernel<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Kernel {
            action,
            source: source.into(),
        }
    }

    /// `program` could not be started.
    pub(crate) fn start(
        program: &'static str,
        package: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        move |error| match error.kind() {
            io::ErrorKind::NotFound => Self::NoProgram { program, package },
            _ => Self::Program {
                program,
                told: error.to_string(),
            },
        }
    }
}
