use std::time::Duration;

use berth_names::Digest;

use crate::hosts_file::HostsError;

/// Why a registry did not give what was asked for. `host` is the one whose answer decided.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{what} was not found at {host}")]
    NotFound { what: String, host: String },
    /// Missing, wrong or insufficient credentials.
    #[error("{host} does not authorize access to {what}: {reason}")]
    Unauthorized {
        what: String,
        host: String,
        reason: String,
    },
    #[error("{host} asks for credentials to be sent to {realm}, which is not safe")]
    UnsafeRealm { host: String, realm: String },
    /// `retry_after` is what the registry asked for, if it did.
    #[error("{host} limits the rate of requests")]
    RateLimited {
        host: String,
        retry_after: Option<Duration>,
    },
    /// The host cannot be reached or does not work.
    #[error("registry {host} is unavailable")]
    Unavailable {
        host: String,
        retry_after: Option<Duration>,
        source: Fault,
    },
    #[error("the certificate or TLS set-up of {host} is not acceptable")]
    Untrusted {
        host: String,
        source: reqwest::Error,
    },
    #[error("{what} from {host} has digest {actual}, expected {expected}")]
    DigestMismatch {
        what: String,
        host: String,
        expected: Digest,
        actual: Digest,
    },
    #[error("{what} from {host} has {actual} bytes, expected {expected}")]
    SizeMismatch {
        what: String,
        host: String,
        expected: u64,
        actual: u64,
    },
    #[error("{what} from {host} is larger than {limit} bytes")]
    TooLarge {
        what: String,
        host: String,
        limit: u64,
    },
    #[error(
        "{what} is a Docker schema 1 manifest, a format without content digests that was retired \
         in 2017: push the image again with a current tool"
    )]
    Schema1 { what: String },
    #[error("{what} from {host} is no valid manifest: {reason}")]
    BadManifest {
        what: String,
        host: String,
        reason: String,
    },
    #[error("{host} redirects {what}: {reason}")]
    BadRedirect {
        what: String,
        host: String,
        reason: &'static str,
    },
    /// An answer outside the protocol.
    #[error("{host} answers {what} with {problem}")]
    Protocol {
        what: String,
        host: String,
        problem: String,
    },
    #[error("configuration allows no host to be asked for {what}")]
    NoHost { what: String },
    #[error("bad registry configuration")]
    Hosts(#[from] HostsError),
    #[error("cannot set up connections to {host}")]
    Setup {
        host: String,
        source: reqwest::Error,
    },
    /// Static text: what was given is a secret.
    #[error("bad registry credentials: {0}")]
    BadCredentials(&'static str),
    #[error("{host} has no {operation}")]
    Unsupported {
        host: String,
        operation: &'static str,
    },
    /// What was to be pushed cannot be read.
    #[error("{what} cannot be read here")]
    Source {
        what: String,
        source: std::io::Error,
    },
    #[error("the runtime is shutting down")]
    ShuttingDown,
}

/// What is wrong with a host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    #[error("the connection failed")]
    Connection(#[from] reqwest::Error),
    #[error("no byte arrived for {0:?}")]
    Stalled(Duration),
    #[error("the transfer ended at byte {at} of {size}")]
    Truncated { at: u64, size: u64 },
    #[error("it has forgotten an upload under way")]
    UploadLost,
    #[error("it answered {status}{message}")]
    Status {
        status: http::StatusCode,
        message: String,
    },
}

impl Error {
    /// Whether the same request may succeed a little later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::RateLimited { .. })
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { retry_after, .. } | Self::RateLimited { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// Classifies a failed request. URLs are dropped: their queries may carry signatures.
    pub(crate) fn transport(host: &str, error: reqwest::Error) -> Self {
        let (host, error) = (host.to_owned(), error.without_url());
        if is_tls(&error) {
            return Self::Untrusted {
                host,
                source: error,
            };
        }
        Self::Unavailable {
            host,
            retry_after: None,
            source: Fault::Connection(error),
        }
    }

    pub(crate) fn stalled(host: &str, after: Duration) -> Self {
        let source = Fault::Stalled(after);
        Self::Unavailable {
            host: host.to_owned(),
            retry_after: None,
            source,
        }
    }
}

/// Whether TLS failed for a reason that trying again does not change. I/O errors hide what they
/// wrap from `source()`, several deep here, hence the two ways down.
fn is_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    if let Some(inner) = error
        .downcast_ref::<std::io::Error>()
        .and_then(|e| e.get_ref())
    {
        return is_tls(inner);
    }
    error.source().is_some_and(is_tls)
}
