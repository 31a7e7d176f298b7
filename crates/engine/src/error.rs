//! What a request is refused with, and the one place where that becomes an HTTP status.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use berth_images::ErrorKind;
use berth_network::ErrorKind as NetworkKind;
use berth_standalone::Kind;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};

use crate::version::ApiVersion;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The texts are what Docker's clients show, and in part what they look for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("page not found")]
    NoRoute,
    #[error(
        "client version {0} is too new. Maximum supported API version is {max}",
        max = ApiVersion::MAX
    )]
    VersionTooNew(String),
    #[error(
        "client version {0} is too old. Minimum supported API version is {min}, please upgrade \
         your client to a newer version",
        min = ApiVersion::MIN
    )]
    VersionTooOld(String),
    /// A request that cannot be meant: a bad parameter, body or header.
    #[error("{0}")]
    BadRequest(String),
    #[error("invalid JSON: {0}")]
    BadJson(serde_json::Error),
    /// `kind` as clients expect it: `container`, `image`, `network`, …
    #[error("No such {kind}: {name}")]
    NoSuch { kind: &'static str, name: String },
    #[error("{0}")]
    NotFound(String),
    /// What is there stands against what is asked for.
    #[error("{0}")]
    Conflict(String),
    /// A start of what runs, a stop of what does not.
    #[error("nothing changes")]
    NotModified,
    #[error("{0}")]
    Unauthorized(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotImplemented(String),
    #[error("{0}")]
    Unavailable(&'static str),
    #[error("cannot read the body of the request")]
    Receive(#[source] axum::Error),
    #[error("the connection could not be taken over")]
    Hijack(#[source] hyper::Error),
    #[error("{operation}")]
    Io {
        operation: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// A record that cannot be read any more.
    #[error("{what} cannot be read")]
    Stored {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Images(#[from] berth_images::Error),
    #[error(transparent)]
    SharedImages(#[from] Arc<berth_images::Error>),
    #[error(transparent)]
    Build(#[from] berth_build::Error),
    #[error(transparent)]
    Registry(#[from] berth_registry::Error),
    #[error(transparent)]
    Networks(#[from] berth_network::Error),
    #[error(transparent)]
    Containers(#[from] berth_standalone::Error),
    #[error(transparent)]
    Lifecycle(#[from] berth_lifecycle::Error),
    #[error(transparent)]
    Archive(#[from] berth_unpack::Error),
    /// A bug here, contained in this request.
    #[error("{operation} panicked")]
    Panicked { operation: &'static str },
}

impl Error {
    pub fn no_such(kind: &'static str, name: impl Into<String>) -> Self {
        let name = name.into();
        Self::NoSuch { kind, name }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::BadRequest(message.into())
    }

    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoRoute | Self::NoSuch { .. } | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::VersionTooNew(_)
            | Self::VersionTooOld(_)
            | Self::BadRequest(_)
            | Self::BadJson(_)
            | Self::Receive(_) => StatusCode::BAD_REQUEST,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::NotModified => StatusCode::NOT_MODIFIED,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Images(error) => of_images(error),
            Self::SharedImages(error) => of_images(error),
            Self::Build(error) => of_build(error),
            Self::Registry(error) => of_registry(error),
            Self::Lifecycle(error) => of_lifecycle(error),
            Self::Networks(error) => of_networks(error),
            Self::Containers(error) => of_containers(error),
            Self::Archive(error) if error.is_bad_archive() || error.is_read_only() => {
                StatusCode::BAD_REQUEST
            }
            Self::Archive(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Hijack(_) | Self::Io { .. } | Self::Stored { .. } | Self::Panicked { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// What a command that failed in a build ended with.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Build(error) => match error.root() {
                berth_build::Error::Command { code, .. } => Some(*code),
                _ => None,
            },
            _ => None,
        }
    }

    /// The message with those of all causes, as people read it.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            // Writing to a string does not fail.
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        text
    }
}

fn of_images(error: &berth_images::Error) -> StatusCode {
    if let berth_images::Error::Registry { source, .. } = error {
        return of_registry(source);
    }
    match error.kind() {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthorized
        | ErrorKind::RegistryUnavailable
        | ErrorKind::DigestMismatch
        | ErrorKind::NoSpace
        | ErrorKind::Cancelled
        | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn of_build(error: &berth_build::Error) -> StatusCode {
    use berth_build::Error as Build;
    match error.root() {
        Build::Syntax(_) | Build::Invalid(_) | Build::Step { .. } | Build::Ignore(_) => {
            StatusCode::BAD_REQUEST
        }
        Build::Pull { source, .. } => of_images(source),
        Build::Images(source) => of_images(source),
        Build::Lifecycle(source) => of_lifecycle(source),
        Build::Network(source) => of_networks(source),
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn of_registry(error: &berth_registry::Error) -> StatusCode {
    use berth_registry::Error as Registry;
    match error {
        // Docker answers a refused pull like one of something that is not there: registries do
        // not tell which it is, and clients pull on 404 alone.
        Registry::NotFound { .. } | Registry::Unauthorized { .. } => StatusCode::NOT_FOUND,
        Registry::BadCredentials(_) => StatusCode::BAD_REQUEST,
        Registry::Unsupported { .. } => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn of_networks(error: &berth_network::Error) -> StatusCode {
    match error.kind() {
        NetworkKind::NotFound => StatusCode::NOT_FOUND,
        NetworkKind::Conflict => StatusCode::CONFLICT,
        NetworkKind::Invalid => StatusCode::BAD_REQUEST,
        NetworkKind::InUse => StatusCode::FORBIDDEN,
        NetworkKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn of_containers(error: &berth_standalone::Error) -> StatusCode {
    match error.kind() {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotModified => StatusCode::NOT_MODIFIED,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn of_lifecycle(error: &berth_lifecycle::Error) -> StatusCode {
    use berth_lifecycle::Error as Core;
    match error.root() {
        Core::PodNotFound(_) | Core::ContainerNotFound(_) | Core::ImageMissing { .. } => {
            StatusCode::NOT_FOUND
        }
        Core::PodExists { .. }
        | Core::ContainerExists { .. }
        | Core::PodState { .. }
        | Core::ContainerState { .. } => StatusCode::CONFLICT,
        Core::Ambiguous { .. }
        | Core::Invalid { .. }
        | Core::Program { .. }
        | Core::UnknownUser { .. }
        | Core::UnknownGroup { .. }
        | Core::UnknownHandler { .. } => StatusCode::BAD_REQUEST,
        Core::Images(source) => of_images(source),
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, message) = (self.status(), self.report());
        if status == StatusCode::NOT_MODIFIED {
            return status.into_response();
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = message, "request failed");
        } else {
            tracing::info!(error = message, status = status.as_u16(), "request refused");
        }
        let text = serde_json::json!({ "message": message }).to_string() + "\n";
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_find_the_message_in_json_of_exactly_that_type() {
        let response = Error::no_such("image", "x:y").into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let bytes = axum::body::to_bytes(response.into_body(), 1024)
            .await
            .unwrap();
        assert_eq!(&bytes[..], b"{\"message\":\"No such image: x:y\"}\n");
    }

    #[tokio::test]
    async fn what_changes_nothing_has_no_body() {
        let response = Error::NotModified.into_response();
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        let bytes = axum::body::to_bytes(response.into_body(), 1024)
            .await
            .unwrap();
        assert!(bytes.is_empty());
    }
}
