use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use http::HeaderValue;

use crate::{Error, Result};

/// Docker clients write padded base64, some Kubernetes tools do not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A password or token. It cannot be printed.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to authenticate at the registry that an image's name starts with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Credentials {
    #[default]
    None,
    Basic {
        user: String,
        password: Secret,
    },
    /// An OAuth2 refresh token, exchanged for bearer tokens at the token server.
    IdentityToken(Secret),
    /// A bearer token for the registry, sent as it is.
    RegistryToken(Secret),
}

impl Credentials {
    pub fn basic(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Basic {
            user: user.into(),
            password: Secret::new(password),
        }
    }

    /// Decodes the `auth` of a Docker configuration: base64 of `user:password`.
    pub fn from_auth_blob(blob: &str) -> Result<Self> {
        let bytes = LENIENT
            .decode(blob.trim())
            .map_err(|_| Error::BadCredentials("the auth field is not base64"))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::BadCredentials("the auth field does not hold text"))?;
        let (user, password) = text.split_once(':').ok_or(Error::BadCredentials(
            "the auth field does not hold user:password",
        ))?;
        // Docker's own tools used to pad the password with NULs.
        Ok(Self::basic(user, password.trim_end_matches('\0')))
    }

    /// Chooses among the fields of a CRI `AuthConfig`; an empty string is an absent field. The
    /// most specific wins: registry token, identity token, user and password, auth blob.
    pub fn from_parts(
        username: &str,
        password: &str,
        auth: &str,
        identity_token: &str,
        registry_token: &str,
    ) -> Result<Self> {
        if !registry_token.is_empty() {
            return Ok(Self::RegistryToken(Secret::new(registry_token)));
        }
        if !identity_token.is_empty() {
            return Ok(Self::IdentityToken(Secret::new(identity_token)));
        }
        if !username.is_empty() {
            return Ok(Self::basic(username, password));
        }
        if !auth.is_empty() {
            return Self::from_auth_blob(auth);
        }
        Ok(Self::None)
    }
}

/// `Authorization: Basic …`, marked so that it is not logged.
pub(crate) fn basic_header(user: &str, password: &Secret) -> Result<HeaderValue> {
    sensitive(&format!(
        "Basic {}",
        STANDARD.encode(format!("{user}:{}", password.expose()))
    ))
}

/// `Authorization: Bearer …`, marked so that it is not logged.
pub(crate) fn bearer_header(token: &Secret) -> Result<HeaderValue> {
    sensitive(&format!("Bearer {}", token.expose()))
}

fn sensitive(value: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::BadCredentials("a token has characters that no header may have"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_auth_blob_is_user_and_password() {
        for blob in [
            "dXNlcjpwYTpzcw==",
            "dXNlcjpwYTpzcw",
            "dXNlcjpwYTpzcw==\n",
            "dXNlcjpwYTpzcwAA",
        ] {
            assert_eq!(
                Credentials::from_auth_blob(blob).unwrap(),
                Credentials::basic("user", "pa:ss"),
                "{blob:?}"
            );
        }
    }

    #[test]
    fn a_bad_auth_blob_is_refused_without_being_quoted() {
        for blob in ["%%%", "dXNlcg==", "//79"] {
            let error = Credentials::from_auth_blob(blob).unwrap_err();
            assert!(
                matches!(error, Error::BadCredentials(_)),
                "{blob}: {error:?}"
            );
            assert!(!error.to_string().contains(blob));
        }
    }

    #[test]
    fn the_most_specific_field_wins() {
        let parts = |u, p, a, i, r| Credentials::from_parts(u, p, a, i, r).unwrap();
        assert_eq!(parts("", "", "", "", ""), Credentials::None);
        assert_eq!(parts("", "", "YTpi", "", ""), Credentials::basic("a", "b"));
        assert_eq!(
            parts("u", "p", "YTpi", "", ""),
            Credentials::basic("u", "p")
        );
        assert_eq!(
            parts("u", "p", "YTpi", "id", ""),
            Credentials::IdentityToken(Secret::new("id"))
        );
        assert_eq!(
            parts("u", "p", "YTpi", "id", "reg"),
            Credentials::RegistryToken(Secret::new("reg"))
        );
    }

    #[test]
    fn secrets_do_not_print() {
        let all = [
            Credentials::basic("user", "hunter2"),
            Credentials::IdentityToken(Secret::new("hunter2")),
            Credentials::RegistryToken(Secret::new("hunter2")),
        ];
        assert!(!format!("{all:?}").contains("hunter2"));
        let header = basic_header("user", &Secret::new("hunter2")).unwrap();
        assert_eq!(format!("{header:?}"), "Sensitive");
    }
}
