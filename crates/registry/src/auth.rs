//! Answers to challenges: Basic, and Bearer tokens from a token server, which are kept.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use berth_names::ImageRef;
use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use reqwest::Url;
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::credentials::{basic_header, bearer_header};
use crate::hosts::{Endpoint, authority, is_loopback};
use crate::request::{deliver, failure, read_limited};
use crate::{Credentials, Error, Result, Secret};

/// Some token servers put long lists of claims into tokens.
const TOKEN_LIMIT: u64 = 1 << 20;
/// Validity of a token whose server does not tell (distribution spec, "Token response").
const DEFAULT_VALIDITY: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds, so that it does not expire on the way.
const SAFETY_MARGIN: Duration = Duration::from_secs(10);
/// Kept tokens beyond which expired ones, and then all, are dropped.
const KEPT: usize = 1024;
const CLIENT_ID: &str = "berth";

/// Whose image is accessed, and as whom.
#[derive(Clone, Copy)]
pub(crate) struct Access<'a> {
    pub(crate) image: &'a ImageRef,
    credentials: &'a Credentials,
}

impl<'a> Access<'a> {
    pub(crate) fn new(image: &'a ImageRef, credentials: &'a Credentials) -> Self {
        Self { image, credentials }
    }

    /// The credentials that this host may learn.
    fn at(&self, endpoint: &Endpoint) -> &'a Credentials {
        if endpoint.trusted {
            self.credentials
        } else {
            &Credentials::None
        }
    }
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct TokenKey {
    realm: String,
    service: String,
    scope: String,
    credentials: Credentials,
}

struct Token {
    header: HeaderValue,
    expires: Instant,
}

/// A host, a repository and an identity: what a challenge was given for.
#[derive(PartialEq, Eq, Hash)]
struct Door {
    origin: String,
    repository: String,
    credentials: Credentials,
}

#[derive(Default)]
pub(crate) struct Authorizer {
    tokens: Mutex<HashMap<TokenKey, Token>>,
    /// The challenge last answered at each door, so that later requests need no refusal first.
    known: Mutex<HashMap<Door, Challenge>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Authorizer {
    /// What to send before any challenge, if that is known.
    pub(crate) async fn header(
        &self,
        endpoint: &Endpoint,
        access: Access<'_>,
        patience: Duration,
    ) -> Result<Option<HeaderValue>> {
        if endpoint.has_own_authorization() {
            return Ok(None);
        }
        if let Credentials::RegistryToken(token) = access.at(endpoint) {
            return bearer_header(token).map(Some);
        }
        let challenge = self.known.lock().get(&door(endpoint, access)).cloned();
        match challenge {
            Some(challenge) => self.satisfy(endpoint, access, &challenge, patience).await,
            None => Ok(None),
        }
    }

    /// Answers a refusal; `None` if there is nothing to answer with. What was kept for this
    /// challenge has just been refused and is dropped first.
    pub(crate) async fn answer(
        &self,
        endpoint: &Endpoint,
        access: Access<'_>,
        challenges: &[Challenge],
        patience: Duration,
    ) -> Result<Option<HeaderValue>> {
        let given = access.at(endpoint);
        if endpoint.has_own_authorization() || matches!(given, Credentials::RegistryToken(_)) {
            return Ok(None);
        }
        let with_scheme = |scheme| challenges.iter().find(move |c| c.scheme == scheme);
        let bearer = with_scheme("bearer").filter(|c| c.parameter("realm").is_some());
        let Some(challenge) = bearer.or_else(|| with_scheme("basic")) else {
            return Ok(None);
        };
        if let Some(key) = token_key(access, given, challenge) {
            self.tokens.lock().remove(&key);
        }
        let header = self.satisfy(endpoint, access, challenge, patience).await?;
        if header.is_some() {
            let mut known = self.known.lock();
            if known.len() >= KEPT {
                known.clear();
            }
            known.insert(door(endpoint, access), challenge.clone());
        }
        Ok(header)
    }

    async fn satisfy(
        &self,
        endpoint: &Endpoint,
        access: Access<'_>,
        challenge: &Challenge,
        patience: Duration,
    ) -> Result<Option<HeaderValue>> {
        let credentials = access.at(endpoint);
        let Some(key) = token_key(access, credentials, challenge) else {
            return match credentials {
                Credentials::Basic { user, password } => basic_header(user, password).map(Some),
                _ => Ok(None),
            };
        };
        if let Some(token) = self.tokens.lock().get(&key)
            && token.expires > Instant::now()
        {
            return Ok(Some(token.header.clone()));
        }
        let token = fetch(endpoint, access, &key, patience).await?;
        let header = token.header.clone();
        self.keep(key, token);
        Ok(Some(header))
    }

    fn keep(&self, key: TokenKey, token: Token) {
        let mut tokens = self.tokens.lock();
        if tokens.len() >= KEPT {
            let now = Instant::now();
            tokens.retain(|_, token| token.expires > now);
        }
        if tokens.len() >= KEPT {
            tokens.clear();
        }
        tokens.insert(key, token);
    }
}

fn door(endpoint: &Endpoint, access: Access<'_>) -> Door {
    Door {
        origin: endpoint.origin(),
        repository: access.image.repository(),
        credentials: access.at(endpoint).clone(),
    }
}

/// What a Bearer challenge asks for; `None` for other schemes. A challenge without scope, as for
/// `/v2/` itself, is taken to be about pulling this repository.
fn token_key(
    access: Access<'_>,
    credentials: &Credentials,
    challenge: &Challenge,
) -> Option<TokenKey> {
    if challenge.scheme != "bearer" {
        return None;
    }
    let scope = challenge
        .parameter("scope")
        .filter(|scope| !scope.is_empty());
    Some(TokenKey {
        realm: challenge.parameter("realm")?.to_owned(),
        service: challenge
            .parameter("service")
            .unwrap_or_default()
            .to_owned(),
        scope: scope.map_or_else(
            || format!("repository:{}:pull", access.image.path()),
            str::to_owned,
        ),
        credentials: credentials.clone(),
    })
}

async fn fetch(
    endpoint: &Endpoint,
    access: Access<'_>,
    key: &TokenKey,
    patience: Duration,
) -> Result<Token> {
    let realm = realm_url(endpoint, &key.realm)?;
    let host = authority(&realm);
    if key.credentials != Credentials::None && !may_learn_credentials(endpoint, &realm) {
        let realm = key.realm.clone();
        return Err(Error::UnsafeRealm {
            host: endpoint.authority.clone(),
            realm,
        });
    }
    let client = match endpoint.is_origin_of(&realm) {
        true => endpoint.client.clone(),
        false => endpoint.foreign_client().await?,
    };
    let request = match &key.credentials {
        Credentials::IdentityToken(token) => client
            .post(realm)
            .header(
                http::header::CONTENT_TYPE,
                "application/x-www-form-urlencoded",
            )
            .body(refresh_form(key, token)),
        Credentials::Basic { user, password } => client
            .get(token_url(realm, key, Some(user)))
            .header(http::header::AUTHORIZATION, basic_header(user, password)?),
        Credentials::None | Credentials::RegistryToken(_) => {
            client.get(token_url(realm, key, None))
        }
    };
    let what = access.image.to_string();
    let response = deliver(request, &host, patience).await?;
    if response.status() != StatusCode::OK {
        return Err(failure(response, &what, &host, patience).await);
    }
    let body = read_limited(response, &what, &host, TOKEN_LIMIT, patience).await?;
    let bad = |problem: &str| Error::Protocol {
        what: format!("the request of a token for {what}"),
        host: host.clone(),
        problem: problem.to_owned(),
    };
    // The parser's error is not passed on: it may quote the token.
    let answer: TokenAnswer =
        serde_json::from_slice(&body).map_err(|_| bad("something that is no token"))?;
    let text = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|t| !t.is_empty());
    let token = Secret::new(text.ok_or_else(|| bad("no token"))?);
    let validity = answer
        .expires_in
        .map_or(DEFAULT_VALIDITY, Duration::from_secs);
    // A year at most: an instant must not overflow.
    let usable = validity
        .min(Duration::from_secs(31_536_000))
        .saturating_sub(SAFETY_MARGIN);
    Ok(Token {
        header: bearer_header(&token)?,
        expires: Instant::now() + usable,
    })
}

fn realm_url(endpoint: &Endpoint, realm: &str) -> Result<Url> {
    let bad = || Error::Protocol {
        what: "a request".to_owned(),
        host: endpoint.authority.clone(),
        problem: format!("a token server that is no URL: {realm:?}"),
    };
    let mut url = Url::parse(realm).map_err(|_| bad())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(bad());
    }
    // The HTTP client would turn these into an Authorization header.
    let _ = (url.set_username(""), url.set_password(None));
    Ok(url)
}

/// The rule is explained in the crate's documentation.
fn may_learn_credentials(endpoint: &Endpoint, realm: &Url) -> bool {
    endpoint.is_origin_of(realm)
        || (realm.scheme() == "https" && endpoint.is_https())
        || (is_loopback(realm) && endpoint.is_loopback())
}

fn token_url(mut realm: Url, key: &TokenKey, account: Option<&str>) -> Url {
    {
        let mut query = realm.query_pairs_mut();
        if !key.service.is_empty() {
            query.append_pair("service", &key.service);
        }
        for scope in key.scope.split_whitespace() {
            query.append_pair("scope", scope);
        }
        if let Some(account) = account {
            query.append_pair("account", account);
        }
    }
    realm
}

/// The OAuth2 refresh grant (RFC 6749, section 6; distribution spec, "Token via OAuth2").
fn refresh_form(key: &TokenKey, token: &Secret) -> String {
    let pairs = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token.expose()),
        ("service", &key.service),
        ("scope", &key.scope),
        ("client_id", CLIENT_ID),
    ];
    // A URL's query has the encoding of a form.
    let Ok(mut url) = Url::parse("form:") else {
        return String::new();
    };
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}
