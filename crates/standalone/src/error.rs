//! What can go wrong, in the words that Docker's clients show their users.

use berth_names::ContainerId;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a door makes its status of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    Conflict,
    Invalid,
    /// Others are in the way, or it is never allowed.
    Forbidden,
    /// Nothing had to be done.
    NotModified,
    Internal,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("No such container: {0}")]
    NotFound(String),
    #[error("No such exec instance: {0}")]
    ExecNotFound(String),
    #[error("No such image: {0}")]
    ImageNotFound(String),
    #[error("get {0}: no such volume")]
    VolumeNotFound(String),
    #[error("checkpoint {name} does not exist for container {container}")]
    CheckpointNotFound { name: String, container: String },
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". \
         You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken { name: String, id: ContainerId },
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Invalid(String),
    #[error("container {0} is as it was asked to be")]
    NotModified(ContainerId),
    #[error("container {0} is not running")]
    NotRunning(String),
    #[error("container {id} was removed while it was to {action}")]
    Gone { id: String, action: &'static str },
    #[error("{}", berth_lifecycle::chain(.0.root()))]
    Lifecycle(berth_lifecycle::Error),
    #[error("{}", berth_lifecycle::chain(.0))]
    Network(berth_network::Error),
    #[error("{action} {name}: {}", of_plugin(.cause))]
    VolumePlugin {
        action: &'static str,
        name: String,
        // Not as its source: the text has all of it.
        cause: berth_plugins::Error,
    },
    #[error("failed to initialize logging driver: {}", .cause.report())]
    LogPlugin {
        // Not as its source: the text has all of it.
        cause: berth_plugins::Error,
    },
    #[error("the records cannot be written: {0}")]
    Store(#[from] berth_metadata::Error),
    #[error("cannot {action} {path:?}: {source}")]
    File {
        action: &'static str,
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    pub fn invalid(problem: impl Into<String>) -> Self {
        Self::Invalid(problem.into())
    }

    pub fn kind(&self) -> Kind {
        use berth_lifecycle::Error as Core;
        match self {
            Self::NotFound(_)
            | Self::ExecNotFound(_)
            | Self::ImageNotFound(_)
            | Self::CheckpointNotFound { .. }
            | Self::VolumeNotFound(_) => Kind::NotFound,
            Self::NameTaken { .. }
            | Self::Conflict(_)
            | Self::NotRunning(_)
            | Self::Gone { .. } => Kind::Conflict,
            Self::Invalid(_) | Self::Ambiguous(_) => Kind::Invalid,
            Self::NotModified(_) => Kind::NotModified,
            Self::Lifecycle(error) => match error.root() {
                Core::Invalid { .. }
                | Core::Program { .. }
                | Core::UnknownUser { .. }
                | Core::UnknownGroup { .. }
                | Core::UnknownHandler { .. }
                | Core::SeccompFile { .. }
                | Core::SeccompProfile { .. } => Kind::Invalid,
                Core::ContainerState { .. } => Kind::Conflict,
                _ => Kind::Internal,
            },
            Self::Network(error) => match error.kind() {
                berth_network::ErrorKind::NotFound => Kind::NotFound,
                berth_network::ErrorKind::Conflict => Kind::Conflict,
                berth_network::ErrorKind::Invalid => Kind::Invalid,
                berth_network::ErrorKind::InUse => Kind::Forbidden,
                berth_network::ErrorKind::Internal => Kind::Internal,
            },
            // No 404 for a plugin: clients would take it for the image's, and pull that.
            Self::VolumePlugin { action, cause, .. } => match cause {
                berth_plugins::Error::NotFound(_) | berth_plugins::Error::Lacks { .. } => {
                    Kind::Invalid
                }
                berth_plugins::Error::Refused { .. } if *action == "get" => Kind::NotFound,
                _ => Kind::Internal,
            },
            Self::LogPlugin { .. } | Self::Store(_) | Self::File { .. } => Kind::Internal,
        }
    }

    pub(crate) fn file(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

/// In Docker's words where it has some.
fn of_plugin(error: &berth_plugins::Error) -> String {
    match error {
        berth_plugins::Error::NotFound(name) | berth_plugins::Error::Lacks { name, .. } => {
            format!("error looking up volume plugin {name}: {error}")
        }
        other => other.report(),
    }
}

impl From<berth_lifecycle::Error> for Error {
    fn from(error: berth_lifecycle::Error) -> Self {
        match error {
            berth_lifecycle::Error::ImageMissing { image } => Self::ImageNotFound(image),
            other => Self::Lifecycle(other),
        }
    }
}

// Not as its source: the text has all of it.
impl From<berth_network::Error> for Error {
    fn from(error: berth_network::Error) -> Self {
        Self::Network(error)
    }
}
