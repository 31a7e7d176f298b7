//! One question to one host: authorization, redirects, and what the answer's status means.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, LOCATION, RANGE};
use http::{HeaderValue, Method, StatusCode};
use reqwest::{RequestBuilder, Response, Url};
use serde::Deserialize;

use crate::auth::{Access, Authorizer};
use crate::challenge;
use crate::error::Fault;
use crate::hosts::{Endpoint, authority};
use crate::retry::retry_after;
use crate::{Error, Result};

const MAX_REDIRECTS: usize = 5;
/// Of an error's body, this much is looked at.
const MESSAGE_LIMIT: u64 = 8 << 10;
/// And this many characters are shown.
const MESSAGE_SHOWN: usize = 300;

/// A question about a repository.
pub(crate) struct Ask<'a> {
    pub(crate) access: Access<'a>,
    pub(crate) method: Method,
    /// Below `/v2`, without a leading slash, and with a query where it has one.
    pub(crate) path: String,
    pub(crate) accept: Option<&'static str>,
    /// First byte wanted, if not 0.
    pub(crate) offset: u64,
    /// For messages.
    pub(crate) what: &'a str,
    /// The longest wait for any sign of life.
    pub(crate) patience: Duration,
}

impl Ask<'_> {
    /// Puts the question to a host. Succeeds with a 2xx answer, or with 416 to a range.
    pub(crate) async fn put_to(
        &self,
        endpoint: &Endpoint,
        authorizer: &Authorizer,
    ) -> Result<Response> {
        let sent = authorizer
            .header(endpoint, self.access, self.patience)
            .await?;
        let mut response = self.follow(endpoint, sent.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED && endpoint.is_origin_of(response.url()) {
            let challenges = challenge::all(response.headers());
            let answer = authorizer
                .answer(endpoint, self.access, &challenges, self.patience)
                .await?;
            if answer.is_some() && answer != sent {
                response = self.follow(endpoint, answer.as_ref()).await?;
            }
        }
        let status = response.status();
        let past_the_end = self.offset > 0 && status == StatusCode::RANGE_NOT_SATISFIABLE;
        if status.is_success() || past_the_end {
            return Ok(response);
        }
        if endpoint.is_origin_of(response.url()) {
            return Err(failure(response, self.what, &endpoint.authority, self.patience).await);
        }
        // A signed URL that expired, or storage that lags: asking the registry again may help.
        let host = authority(response.url());
        Err(unavailable(&host, &response, String::new()))
    }

    /// Sends the request and follows redirects. Past the first hop to another origin nothing that
    /// identifies us is sent, not even when a later hop leads back.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response> {
        let mut url = endpoint.url(&self.path);
        let mut strayed = false;
        for _ in 0..=MAX_REDIRECTS {
            let host = authority(&url);
            let client = match strayed {
                false => endpoint.client.clone(),
                true => endpoint.foreign_client().await?,
            };
            let mut request = client
                .request(self.method.clone(), url.clone())
                .header(ACCEPT_ENCODING, "identity");
            if !strayed {
                let mut headers = endpoint.headers.clone();
                if let Some(authorization) = authorization {
                    headers.insert(AUTHORIZATION, authorization.clone());
                }
                request = request.headers(headers);
            }
            if let Some(accept) = self.accept {
                request = request.header(ACCEPT, accept);
            }
            if self.offset > 0 {
                request = request.header(RANGE, format!("bytes={}-", self.offset));
            }
            let response = deliver(request, &host, self.patience).await?;
            let Some(next) = self.redirect(endpoint, &url, &response)? else {
                return Ok(response);
            };
            strayed |= !endpoint.is_origin_of(&next);
            url = next;
        }
        Err(self.bad_redirect(endpoint, "too many times"))
    }

    fn redirect(&self, endpoint: &Endpoint, from: &Url, answer: &Response) -> Result<Option<Url>> {
        if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let location = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
        let location =
            location.ok_or_else(|| self.bad_redirect(endpoint, "without saying where"))?;
        let mut next = from
            .join(location)
            .map_err(|_| self.bad_redirect(endpoint, "to something that is no URL"))?;
        if !matches!(next.scheme(), "http" | "https") || !next.has_host() {
            return Err(self.bad_redirect(endpoint, "to something that is not HTTP"));
        }
        let downgrade = from.scheme() == "https" && next.scheme() == "http";
        if downgrade && !endpoint.skips_verification() {
            return Err(self.bad_redirect(endpoint, "from HTTPS to plain HTTP"));
        }
        // The HTTP client would turn these into an Authorization header.
        let _ = (next.set_username(""), next.set_password(None));
        Ok(Some(next))
    }

    fn bad_redirect(&self, endpoint: &Endpoint, reason: &'static str) -> Error {
        let (what, host) = (self.what.to_owned(), endpoint.authority.clone());
        Error::BadRedirect { what, host, reason }
    }
}

/// Sends a request and waits for the answer's head.
pub(crate) async fn deliver(
    request: RequestBuilder,
    host: &str,
    patience: Duration,
) -> Result<Response> {
    match tokio::time::timeout(patience, request.send()).await {
        Ok(answer) => answer.map_err(|e| Error::transport(host, e)),
        Err(_) => Err(Error::stalled(host, patience)),
    }
}

/// Reads a body of at most `limit` bytes into memory.
pub(crate) async fn read_limited(
    mut response: Response,
    what: &str,
    host: &str,
    limit: u64,
    patience: Duration,
) -> Result<Bytes> {
    let announced = response.content_length().unwrap_or(0);
    let mut body = BytesMut::with_capacity(announced.min(limit) as usize);
    loop {
        if announced.max(body.len() as u64) > limit {
            let (what, host) = (what.to_owned(), host.to_owned());
            return Err(Error::TooLarge { what, host, limit });
        }
        match tokio::time::timeout(patience, response.chunk()).await {
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            Ok(Ok(None)) => return Ok(body.freeze()),
            Ok(Err(error)) => return Err(Error::transport(host, error)),
            Err(_) => return Err(Error::stalled(host, patience)),
        }
    }
}

/// The error that a refusal amounts to.
pub(crate) async fn failure(
    response: Response,
    what: &str,
    host: &str,
    patience: Duration,
) -> Error {
    let status = response.status();
    let (what, owner) = (what.to_owned(), host.to_owned());
    let wait = retry_after(response.headers());
    match status {
        StatusCode::NOT_FOUND => Error::NotFound { what, host: owner },
        StatusCode::TOO_MANY_REQUESTS => Error::RateLimited {
            host: owner,
            retry_after: wait,
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let reason = format!("{status}{}", message(response, host, patience).await);
            Error::Unauthorized {
                what,
                host: owner,
                reason,
            }
        }
        _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            let message = message(response, host, patience).await;
            let source = Fault::Status { status, message };
            Error::Unavailable {
                host: owner,
                retry_after: wait,
                source,
            }
        }
        _ => {
            let problem = format!("{status}{}", message(response, host, patience).await);
            Error::Protocol {
                what,
                host: owner,
                problem,
            }
        }
    }
}

fn unavailable(host: &str, response: &Response, message: String) -> Error {
    let (host, retry_after) = (host.to_owned(), retry_after(response.headers()));
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        return Error::RateLimited { host, retry_after };
    }
    let source = Fault::Status {
        status: response.status(),
        message,
    };
    Error::Unavailable {
        host,
        retry_after,
        source,
    }
}

/// The errors that a registry explains itself with (distribution spec, "Error codes").
#[derive(Deserialize)]
struct Explanations {
    errors: Vec<Explanation>,
}

#[derive(Deserialize)]
struct Explanation {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's own explanation as `: CODE message`, or nothing. It is shown to people and
/// logged, so that control characters are dropped and its length is bounded.
async fn message(response: Response, host: &str, patience: Duration) -> String {
    let Ok(body) = read_limited(response, "", host, MESSAGE_LIMIT, patience).await else {
        return String::new();
    };
    let Ok(explained) = serde_json::from_slice::<Explanations>(&body) else {
        return String::new();
    };
    let texts = explained
        .errors
        .iter()
        .map(|e| format!("{} {}", e.code, e.message));
    let text = texts.collect::<Vec<_>>().join("; ");
    let shown: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(MESSAGE_SHOWN)
        .collect();
    match shown.trim() {
        "" => String::new(),
        shown => format!(": {shown}"),
    }
}
