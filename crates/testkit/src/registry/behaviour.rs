use http::{HeaderMap, Method};

/// The switches. The default is a registry without faults that lets everybody in.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    pub auth: Auth,
    /// Fails requests for manifests and blobs before anything else is looked at.
    pub outage: Option<Outage>,
    /// Fails requests to the token server.
    pub token_outage: Option<Outage>,
    /// Ends transfers of blobs early.
    pub break_off: Option<Break>,
    /// Answers a request for a range with the whole blob.
    pub ignore_ranges: bool,
    /// Sends blobs in chunks, without saying how long they are.
    pub hide_length: bool,
    /// Redirects requests for blobs to the same path at this URL, such as
    /// `http://127.0.0.1:4000`, with this status.
    pub redirect_blobs: Option<(u16, String)>,
    /// Sent as `Docker-Content-Digest` instead of the truth; empty: not sent.
    pub content_digest: Option<String>,
    /// Answers `HEAD` with 405.
    pub refuse_head: bool,
}

/// Whom the registry lets in.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    #[default]
    Everybody,
    Basic {
        user: String,
        password: String,
    },
    /// Tokens from `/token` of this server, or from `realm`.
    Bearer {
        /// Who gets tokens by Basic authentication; `None`: everybody, without any.
        account: Option<(String, String)>,
        /// Gets tokens by the OAuth2 refresh grant.
        refresh_token: Option<String>,
        /// Named in the challenge instead of this server's own.
        realm: Option<String>,
        /// Seconds, told with each token.
        expires_in: Option<u64>,
    },
    /// One token, issued elsewhere.
    FixedToken(String),
}

impl Auth {
    pub fn basic(user: &str, password: &str) -> Self {
        Self::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    /// Tokens for everybody who asks.
    pub fn anonymous_bearer() -> Self {
        Self::Bearer {
            account: None,
            refresh_token: None,
            realm: None,
            expires_in: Some(300),
        }
    }

    /// Tokens for one account.
    pub fn bearer(user: &str, password: &str) -> Self {
        let account = Some((user.to_owned(), password.to_owned()));
        Self::Bearer {
            account,
            refresh_token: None,
            realm: None,
            expires_in: Some(300),
        }
    }
}

/// The next requests fail.
#[derive(Debug, Clone)]
pub struct Outage {
    pub times: u32,
    pub status: u16,
    /// The header's text.
    pub retry_after: Option<String>,
}

/// The next transfers break off.
#[derive(Debug, Clone)]
pub struct Break {
    pub times: u32,
    /// Bytes of the body that are sent before.
    pub after: u64,
    /// The connection stays open and silent, instead of being closed.
    pub stall: bool,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    /// Without the question mark; empty if there is none.
    pub query: String,
    pub headers: HeaderMap,
}

impl Seen {
    /// A header's text, if it is there.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Uses up one of the remaining times.
pub(super) fn spend(times: &mut u32) -> bool {
    let left = *times > 0;
    *times = times.saturating_sub(1);
    left
}
