//! What can go wrong with a plugin, in words that name it.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// In Docker's words.
    #[error("plugin \"{0}\" not found")]
    NotFound(String),
    #[error("plugin \"{name}\" does not implement {interface}: it offers {}", offers(.implements))]
    Lacks {
        name: String,
        interface: &'static str,
        implements: Vec<String>,
    },
    #[error("{path:?} does not say where its plugin is: {problem}")]
    Spec { path: PathBuf, problem: String },
    #[error("plugin \"{name}\" is not reached at {address}: is it running?")]
    Unreachable {
        name: String,
        address: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("plugin \"{name}\" has not answered {method} within {seconds} s")]
    Timeout {
        name: String,
        method: String,
        seconds: u64,
    },
    /// It is not asked again for a while.
    #[error("plugin \"{0}\" did not answer a moment ago")]
    Away(String),
    #[error("plugin \"{name}\" broke off its answer to {method}")]
    Broken {
        name: String,
        method: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("plugin \"{name}\" answered {method} with {what}")]
    Garbled {
        name: String,
        method: String,
        what: String,
    },
    /// The plugin's own words.
    #[error("{method}: {text}")]
    Refused {
        method: String,
        status: u16,
        text: String,
    },
}

impl Error {
    /// The plugin does not know the method that it was asked for.
    pub fn is_unknown_method(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// The plugin is there, and said no.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Nothing came of what was asked: it was refused, or nobody heard it.
    pub fn did_nothing(&self) -> bool {
        !matches!(
            self,
            Self::Timeout { .. } | Self::Broken { .. } | Self::Garbled { .. }
        )
    }

    /// The message with those of its causes.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }

    pub(crate) fn spec(path: &Path, problem: impl ToString) -> Self {
        Self::Spec {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }
}

fn offers(implements: &[String]) -> String {
    match implements {
        [] => "nothing".to_owned(),
        all => all.join(", "),
    }
}
