//! Versions of the API, as the path's prefix: `/v1.43/containers/json`.

use std::convert::Infallible;
use std::fmt;

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::{Error, Result};

/// What a request is to be answered as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    major: u32,
    minor: u32,
}

impl ApiVersion {
    pub const MIN: Self = Self::new(24);
    /// Also that of requests without a prefix.
    pub const MAX: Self = Self::new(50);

    /// `1.minor`: there is no other major version.
    pub const fn new(minor: u32) -> Self {
        Self { major: 1, minor }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Splits a path into its version and the rest.
///
/// # Errors
/// If the version is not served; clients downgrade by the message.
pub fn negotiate(path: &str) -> Result<(ApiVersion, &str)> {
    let Some((prefix, rest)) = prefixed(path) else {
        return Ok((ApiVersion::MAX, path));
    };
    match ApiVersion::parse(prefix) {
        Some(version) if version > ApiVersion::MAX => Err(Error::VersionTooNew(prefix.to_owned())),
        Some(version) if version < ApiVersion::MIN => Err(Error::VersionTooOld(prefix.to_owned())),
        Some(version) => Ok((version, rest)),
        None => Err(Error::NoRoute),
    }
}

fn prefixed(path: &str) -> Option<(&str, &str)> {
    let tail = path.strip_prefix("/v")?;
    let end = tail.find('/')?;
    let (prefix, rest) = tail.split_at(end);
    let digits = prefix.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (digits && !prefix.is_empty()).then_some((prefix, rest))
}

impl<S: Sync> FromRequestParts<S> for ApiVersion {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or(Self::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_and_without_a_version_lead_to_the_same_place() {
        for (path, version, rest) in [
            ("/_ping", ApiVersion::MAX, "/_ping"),
            ("/v1.50/_ping", ApiVersion::MAX, "/_ping"),
            ("/v1.24/images/json", ApiVersion::MIN, "/images/json"),
            ("/volumes", ApiVersion::MAX, "/volumes"),
            ("/v1.41", ApiVersion::MAX, "/v1.41"),
        ] {
            assert_eq!(negotiate(path).unwrap(), (version, rest), "{path}");
        }
    }

    #[test]
    fn versions_that_are_not_served_are_refused_in_dockers_words() {
        for (path, message) in [
            (
                "/v1.51/info",
                "client version 1.51 is too new. Maximum supported API version is 1.50",
            ),
            (
                "/v2.0/info",
                "client version 2.0 is too new. Maximum supported API version is 1.50",
            ),
            (
                "/v1.9/info",
                "client version 1.9 is too old. Minimum supported API version is 1.24, \
                 please upgrade your client to a newer version",
            ),
            ("/v1..2/info", "page not found"),
        ] {
            assert_eq!(negotiate(path).unwrap_err().to_string(), message);
        }
    }
}
