//! Credentials as Docker's clients send them: `X-Registry-Auth`, base64url of JSON.

use std::collections::HashMap;

use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use berth_registry::Credentials;
use http::request::Parts;
use serde::Deserialize;

use crate::{Error, Result};

const HEADER: &str = "x-registry-auth";

/// With padding or without, as the client's library likes it.
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// No `Debug`: it holds secrets.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    username: String,
    password: String,
    auth: String,
    #[serde(rename = "serveraddress")]
    pub server_address: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
    #[serde(rename = "registrytoken")]
    registry_token: String,
}

impl AuthConfig {
    pub fn credentials(&self) -> Result<Credentials> {
        let parts = Credentials::from_parts(
            &self.username,
            &self.password,
            &self.auth,
            &self.identity_token,
            &self.registry_token,
        );
        parts.map_err(Error::Registry)
    }
}

/// The credentials of a request; without the header, none.
#[derive(Debug)]
pub struct RegistryAuth(pub Credentials);

impl<S: Sync> FromRequestParts<S> for RegistryAuth {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let Some(header) = parts.headers.get(HEADER) else {
            return Ok(Self(Credentials::None));
        };
        decode(header.as_bytes())?.credentials().map(Self)
    }
}

/// The credentials for several registries, by their hosts as clients name them: those that a build
/// may need (`X-Registry-Config`).
pub fn several(headers: &http::HeaderMap) -> Result<HashMap<String, Credentials>> {
    let Some(header) = headers.get("x-registry-config") else {
        return Ok(HashMap::new());
    };
    let bad = |what: &str| Error::bad(format!("invalid X-Registry-Config header: {what}"));
    let bytes = URL_SAFE
        .decode(header.as_bytes())
        .map_err(|_| bad("it is not base64url"))?;
    let all: Option<HashMap<String, AuthConfig>> =
        serde_json::from_slice(&bytes).map_err(|_| bad("it is not JSON of logins"))?;
    let all = all.unwrap_or_default().into_iter();
    all.map(|(host, config)| Ok((host, config.credentials()?)))
        .collect()
}

/// What was given is never quoted.
fn decode(text: &[u8]) -> Result<AuthConfig> {
    if text.is_empty() {
        return Ok(AuthConfig::default());
    }
    let bad = |what: &str| Error::bad(format!("invalid X-Registry-Auth header: {what}"));
    let bytes = URL_SAFE
        .decode(text)
        .map_err(|_| bad("it is not base64url"))?;
    // Old clients send `null` for nobody.
    let config: Option<AuthConfig> =
        serde_json::from_slice(&bytes).map_err(|_| bad("it is not JSON of a login"))?;
    Ok(config.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_read_with_and_without_padding() {
        let json = br#"{"username":"crew","password":"s3cret?>","serveraddress":"r:5000"}"#;
        let padded = URL_SAFE.encode(json);
        let expected = Credentials::basic("crew", "s3cret?>");
        for text in [padded.as_str(), padded.trim_end_matches('=')] {
            let config = decode(text.as_bytes()).unwrap();
            assert_eq!(config.server_address, "r:5000");
            assert_eq!(config.credentials().unwrap(), expected);
        }
        for nobody in ["", "e30=", "bnVsbA=="] {
            let config = decode(nobody.as_bytes()).unwrap();
            assert_eq!(config.credentials().unwrap(), Credentials::None);
        }
    }

    #[test]
    fn garbage_is_refused_without_being_quoted() {
        for text in ["%%%", "aHVudGVyMg"] {
            let error = decode(text.as_bytes()).err().unwrap();
            assert!(!error.to_string().contains(text));
        }
    }
}
