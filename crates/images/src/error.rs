use std::sync::Arc;

use berth_names::{ChainId, Digest};

/// Why an image could not be pulled, removed or described.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("pulling {reference}")]
    Registry {
        reference: String,
        #[source]
        source: Box<berth_registry::Error>,
    },
    #[error("pushing {reference}")]
    Push {
        reference: String,
        #[source]
        source: Box<berth_registry::Error>,
    },
    /// What was to be pushed is not here.
    #[error("An image does not exist locally with the tag: {reference}")]
    Missing { reference: String },
    /// No manifest of an index is for this machine.
    #[error("{reference} has no manifest for {wanted}; it has {offered}")]
    NoPlatform {
        reference: String,
        wanted: String,
        offered: String,
    },
    /// A document that no honest tool makes, or that asks for more than an image may.
    #[error("{document} {digest}: {field}: {problem}")]
    Invalid {
        document: &'static str,
        digest: Digest,
        field: String,
        problem: String,
    },
    #[error("{what} has digest {actual}, expected {expected}")]
    DigestMismatch {
        what: String,
        expected: Digest,
        actual: Digest,
    },
    #[error("unpacking layer {digest}")]
    Unpack {
        digest: Digest,
        #[source]
        source: berth_unpack::Error,
    },
    #[error("{operation}")]
    Content {
        operation: &'static str,
        #[source]
        source: berth_content::Error,
    },
    #[error("{operation}")]
    Snapshots {
        operation: &'static str,
        #[source]
        source: berth_snapshots::Error,
    },
    #[error("layer {layer}: {operation}")]
    Layer {
        operation: &'static str,
        layer: ChainId,
        #[source]
        source: berth_snapshots::Error,
    },
    #[error("file {path:?} of the artifact cannot be made")]
    Artifact {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{operation}")]
    Archive {
        operation: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// What was given is no archive of images.
    #[error("{0}")]
    BadArchive(String),
    #[error("{operation}")]
    Metadata {
        operation: &'static str,
        #[source]
        source: berth_metadata::Error,
    },
    /// Nobody waits for the pull any more.
    #[error("pulling {reference} was cancelled")]
    Cancelled { reference: String },
    /// A bug here, contained in this operation.
    #[error("{operation} panicked")]
    Panicked { operation: &'static str },
    /// Only ever in builds for tests.
    #[error(transparent)]
    Fault(#[from] berth_faults::Injected),
}

/// What a door needs to know of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The registry does not have the image, or not for this platform.
    NotFound,
    Unauthorized,
    /// The registry cannot be reached, does not work, or limits the rate.
    RegistryUnavailable,
    /// The image or the registry's answer is at fault; trying again gives the same.
    Invalid,
    DigestMismatch,
    NoSpace,
    Cancelled,
    Internal,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Registry { source, .. } | Error::Push { source, .. } => registry_kind(source),
            Error::NoPlatform { .. } | Error::Missing { .. } => ErrorKind::NotFound,
            Error::Invalid { .. } => ErrorKind::Invalid,
            Error::DigestMismatch { .. } => ErrorKind::DigestMismatch,
            Error::Unpack { source, .. } if source.is_out_of_space() => ErrorKind::NoSpace,
            Error::Unpack { source, .. } if source.is_bad_archive() => ErrorKind::Invalid,
            Error::Unpack { .. } => ErrorKind::Internal,
            Error::Content { source, .. } => content_kind(source),
            Error::Snapshots { source, .. } | Error::Layer { source, .. } => {
                if source.is_out_of_space() {
                    ErrorKind::NoSpace
                } else {
                    ErrorKind::Internal
                }
            }
            Error::BadArchive(_) => ErrorKind::Invalid,
            Error::Artifact { source, .. } | Error::Archive { source, .. } => match source.kind() {
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
                    ErrorKind::Invalid
                }
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ErrorKind::NoSpace
                }
                _ => ErrorKind::Internal,
            },
            Error::Metadata { source, .. } if source.is_no_space() => ErrorKind::NoSpace,
            Error::Metadata { .. } => ErrorKind::Internal,
            Error::Cancelled { .. } => ErrorKind::Cancelled,
            Error::Panicked { .. } | Error::Fault(_) => ErrorKind::Internal,
        }
    }

    /// The message with those of all causes, as people read it.
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

    pub(crate) fn content(operation: &'static str) -> impl Fn(berth_content::Error) -> Self {
        move |source| match source {
            berth_content::Error::DigestMismatch {
                expected, actual, ..
            } => Error::DigestMismatch {
                what: "blob".to_owned(),
                expected,
                actual,
            },
            source => Error::Content { operation, source },
        }
    }

    pub(crate) fn snapshots(operation: &'static str) -> impl Fn(berth_snapshots::Error) -> Self {
        move |source| Error::Snapshots { operation, source }
    }

    pub(crate) fn layer(
        operation: &'static str,
        layer: &ChainId,
    ) -> impl Fn(berth_snapshots::Error) -> Self {
        move |source| Error::Layer {
            operation,
            layer: layer.clone(),
            source,
        }
    }

    pub(crate) fn metadata(operation: &'static str) -> impl Fn(berth_metadata::Error) -> Self {
        move |source| Error::Metadata { operation, source }
    }

    pub(crate) fn invalid(
        document: &'static str,
        digest: &Digest,
        field: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        let (field, problem) = (field.into(), problem.into());
        Error::Invalid {
            document,
            digest: digest.clone(),
            field,
            problem,
        }
    }
}

fn registry_kind(error: &berth_registry::Error) -> ErrorKind {
    use berth_registry::Error as Registry;
    match error {
        Registry::NotFound { .. } => ErrorKind::NotFound,
        Registry::Unauthorized { .. }
        | Registry::UnsafeRealm { .. }
        | Registry::BadCredentials(_) => ErrorKind::Unauthorized,
        Registry::RateLimited { .. }
        | Registry::Unavailable { .. }
        | Registry::Untrusted { .. } => ErrorKind::RegistryUnavailable,
        Registry::DigestMismatch { .. } => ErrorKind::DigestMismatch,
        Registry::SizeMismatch { .. }
        | Registry::TooLarge { .. }
        | Registry::Schema1 { .. }
        | Registry::BadManifest { .. }
        | Registry::BadRedirect { .. }
        | Registry::Protocol { .. } => ErrorKind::Invalid,
        Registry::ShuttingDown => ErrorKind::Cancelled,
        _ => ErrorKind::Internal,
    }
}

fn content_kind(error: &berth_content::Error) -> ErrorKind {
    use berth_content::Error as Content;
    match error {
        Content::NoSpace { .. } => ErrorKind::NoSpace,
        Content::DigestMismatch { .. } => ErrorKind::DigestMismatch,
        Content::TooLong { .. } | Content::Incomplete { .. } | Content::OverLimit { .. } => {
            ErrorKind::Invalid
        }
        _ => ErrorKind::Internal,
    }
}

/// What the waiters of one flight are told, all the same.
pub(crate) type Shared<T> = std::result::Result<T, Arc<Error>>;
