//! What can be wrong with a project, where, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A place in a file; lines and columns count from one. Line 0 is no place in a file, but something
/// that nobody wrote down, such as a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
}

impl At {
    pub fn nowhere() -> Self {
        Self {
            file: Arc::from("the project"),
            line: 0,
            column: 0,
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}:{}", self.file, self.column),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}: this is not YAML: {1}")]
    Yaml(At, String),
    /// Something in a file: its field, as `services.web.ports[0]`, and what is wrong with it.
    #[error("{at}: {field}: {reason}")]
    Field {
        at: At,
        field: String,
        reason: String,
    },
    /// The same where no field is to blame.
    #[error("{0}: {1}")]
    Place(At, String),
    #[error("{file}:{line}: {reason}")]
    EnvFile {
        file: String,
        line: usize,
        reason: String,
    },
    #[error("reading {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "there is no compose.yaml here or above; name one with --file, or change to its directory"
    )]
    NoFile,
    #[error(
        "{0:?} cannot be a project's name: use lower-case letters, digits, - and _, with a letter or a digit first"
    )]
    ProjectName(String),
    #[error("no service is called {name:?}; there are: {known}")]
    NoService { name: String, known: String },
    #[error("services wait for each other in a circle: {0}; one of these depends_on has to go")]
    Circle(String),
}

impl Error {
    pub fn field(at: &At, field: &Path, reason: impl Into<String>) -> Self {
        Self::Field {
            at: at.clone(),
            field: field.to_string(),
            reason: reason.into(),
        }
    }

    pub fn place(at: &At, reason: impl Into<String>) -> Self {
        Self::Place(at.clone(), reason.into())
    }
}

/// Where in a model something is; shown as `services.web.ports[0]`.
#[derive(Debug, Clone, Default)]
pub struct Path(String);

impl Path {
    pub fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub fn key(&self, key: &str) -> Self {
        match self.0.as_str() {
            "" => Self(key.to_owned()),
            above => Self(format!("{above}.{key}")),
        }
    }

    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "the file"
        } else {
            &self.0
        })
    }
}
