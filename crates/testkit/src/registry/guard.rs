//! Authentication: challenges, the token server, and who may pass.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};

use super::behaviour::Auth;

/// Tokens by text, with the scope that each was issued for.
#[derive(Default)]
pub(super) struct Tokens {
    issued: u64,
    valid: HashMap<String, String>,
}

impl Tokens {
    pub(super) fn revoke(&mut self) {
        self.valid.clear();
    }

    /// Issues a token for whoever may have one.
    pub(super) fn issue(
        &mut self,
        auth: &Auth,
        headers: &HeaderMap,
        query: &str,
        form: &str,
    ) -> Result<String, StatusCode> {
        let Auth::Bearer {
            account,
            refresh_token,
            expires_in,
            ..
        } = auth
        else {
            return Err(StatusCode::NOT_FOUND);
        };
        let entitled = match (account, field(form, "grant_type")) {
            (_, Some(grant)) => {
                grant == "refresh_token"
                    && refresh_token.is_some()
                    && field(form, "refresh_token") == *refresh_token
            }
            (Some((user, password)), None) => authorization(headers) == basic(user, password),
            (None, None) => refresh_token.is_none(),
        };
        if !entitled {
            return Err(StatusCode::UNAUTHORIZED);
        }
        self.issued += 1;
        let token = format!("token-{}", self.issued);
        let scope = field(query, "scope")
            .or_else(|| field(form, "scope"))
            .unwrap_or_default();
        self.valid.insert(token.clone(), scope);
        let mut answer = serde_json::json!({ "token": token, "access_token": token });
        if let Some(seconds) = expires_in {
            answer["expires_in"] = (*seconds).into();
        }
        Ok(answer.to_string())
    }

    /// Lets a request pass, or returns the challenge to answer it with.
    pub(super) fn admit(
        &self,
        auth: &Auth,
        headers: &HeaderMap,
        repository: &str,
        own_url: &str,
    ) -> Result<(), String> {
        let given = authorization(headers);
        let scope = format!("repository:{repository}:pull");
        match auth {
            Auth::Everybody => Ok(()),
            Auth::Basic { user, password } if given == basic(user, password) => Ok(()),
            Auth::Basic { .. } => Err("Basic realm=\"Registry, with a comma\"".to_owned()),
            Auth::FixedToken(token) if given == format!("Bearer {token}") => Ok(()),
            Auth::FixedToken(_) => Err(format!("Bearer realm=\"{own_url}/nowhere\"")),
            Auth::Bearer { realm, .. } => {
                let token = given.strip_prefix("Bearer ").unwrap_or_default();
                if self.valid.get(token) == Some(&scope) {
                    return Ok(());
                }
                let own_realm = format!("{own_url}/token");
                let realm = realm.as_deref().unwrap_or(&own_realm);
                Err(format!(
                    "Bearer realm=\"{realm}\",service=\"testkit\",scope=\"{scope}\""
                ))
            }
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn authorization(headers: &HeaderMap) -> String {
    let value = headers
        .get(http::header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// A field of a query or form, decoded.
pub(super) fn field(text: &str, name: &str) -> Option<String> {
    let value = text
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn form_fields_are_decoded() {
        let form = "scope=repository%3Aa%2Fb%3Apull&service=a+b&bad=%zz&short=%4";
        assert_eq!(field(form, "scope").as_deref(), Some("repository:a/b:pull"));
        assert_eq!(field(form, "service").as_deref(), Some("a b"));
        assert_eq!(field(form, "bad"), None);
        assert_eq!(field(form, "short"), None);
        assert_eq!(field(form, "absent"), None);
    }
}
