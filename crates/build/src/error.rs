//! Why an image is not built.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::dockerfile::{Problem, SyntaxError};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("dockerfile parse error")]
    Syntax(#[from] SyntaxError),
    /// What a person asked for cannot be: a name, a path, a flag's value.
    #[error("{0}")]
    Invalid(String),
    /// The Dockerfile's line, and what is wrong with it.
    #[error("Dockerfile:{line}: {text}: {problem}")]
    Step {
        line: usize,
        text: String,
        problem: String,
    },
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command { command: String, code: i32 },
    #[error("the build was cancelled")]
    Cancelled,
    #[error("cannot read the build's context")]
    Context(#[source] io::Error),
    #[error("{operation} {path:?}")]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write a layer")]
    Layer(#[source] io::Error),
    #[error("cannot pack a layer")]
    Pack(#[source] berth_unpack::Error),
    #[error(transparent)]
    Ignore(#[from] crate::ignore::BadPattern),
    #[error(transparent)]
    Images(#[from] berth_images::Error),
    #[error("cannot pull {image}")]
    Pull {
        image: String,
        source: Arc<berth_images::Error>,
    },
    #[error("cannot fetch {url}")]
    Fetch {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("cannot fetch the repository {url}: {problem}")]
    Git { url: String, problem: String },
    #[error("cannot read {reference}")]
    Registry {
        reference: String,
        #[source]
        source: Box<berth_registry::Error>,
    },
    #[error("cannot send the cache to {reference}")]
    CacheExport {
        reference: String,
        #[source]
        source: Box<berth_registry::Error>,
    },
    #[error(transparent)]
    Lifecycle(#[from] berth_lifecycle::Error),
    #[error(transparent)]
    Network(#[from] berth_network::Error),
    #[error(transparent)]
    Store(#[from] berth_metadata::Error),
    #[error("the config of image {image} cannot be read")]
    Config {
        image: String,
        #[source]
        source: serde_json::Error,
    },
    /// The failure of a stage that several others wait for.
    #[error(transparent)]
    Shared(Arc<Error>),
    #[error("{0} was cut short")]
    CutShort(&'static str),
}

impl Error {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub fn file(
        operation: &'static str,
        path: impl AsRef<std::path::Path>,
    ) -> Box<dyn FnOnce(io::Error) -> Self + Send> {
        let path = path.as_ref().to_owned();
        Box::new(move |source| Self::File {
            operation,
            path,
            source,
        })
    }

    /// The error itself, where several were given it.
    pub fn root(&self) -> &Error {
        match self {
            Self::Shared(inner) => inner.root(),
            other => other,
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let Problem { what, advice, .. } = problem;
        Self::Invalid(match advice.as_str() {
            "" => what,
            advice => format!("{what}: {advice}"),
        })
    }
}

/// Runs blocking `work` away from the async workers.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(Error::CutShort(operation)))
}
