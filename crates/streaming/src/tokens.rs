//! Requests that wait for their client, under names that cannot be guessed.
//!
//! The URL that carries a token is all that a client needs; therefore a token works once, for a
//! short time, and there are only so many.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Error, Result};
use crate::request::Request;

/// 192 bits: 32 characters.
const TOKEN_LEN: usize = 24;

#[derive(Debug)]
pub struct Tokens {
    lifetime: Duration,
    limit: usize,
    waiting: Mutex<HashMap<String, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    until: Instant,
}

impl Tokens {
    pub fn new(lifetime: Duration, limit: usize) -> Self {
        Self {
            lifetime,
            limit,
            waiting: Mutex::default(),
        }
    }

    /// Keeps the request; returns its token.
    pub fn issue(&self, request: Request) -> Result<String> {
        self.issue_at(request, Instant::now())
    }

    /// The request of a token, once.
    pub fn redeem(&self, token: &str) -> Option<Request> {
        self.redeem_at(token, Instant::now())
    }

    fn issue_at(&self, request: Request, now: Instant) -> Result<String> {
        let token = random()?;
        let mut waiting = self.waiting.lock();
        if waiting.len() >= self.limit {
            waiting.retain(|_, entry| entry.until > now);
        }
        if waiting.len() >= self.limit {
            return Err(Error::TooManyPrepared { limit: self.limit });
        }
        let until = now + self.lifetime;
        waiting.insert(token.clone(), Waiting { request, until });
        Ok(token)
    }

    fn redeem_at(&self, token: &str, now: Instant) -> Option<Request> {
        let entry = self.waiting.lock().remove(token)?;
        (entry.until > now).then_some(entry.request)
    }
}

fn random() -> Result<String> {
    let mut bytes = [0; TOKEN_LEN];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|errno| Error::Random(errno.into()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PortForward;

    const MINUTE: Duration = Duration::from_secs(60);

    fn request(pod: &str) -> Request {
        Request::PortForward(PortForward {
            pod: pod.to_owned(),
            ports: Vec::new(),
        })
    }

    #[test]
    fn a_token_works_once() {
        let tokens = Tokens::new(MINUTE, 2);
        let token = tokens.issue(request("a")).unwrap();
        assert_eq!(tokens.redeem(&token), Some(request("a")));
        assert_eq!(tokens.redeem(&token), None);
        assert_eq!(tokens.redeem(""), None);
    }

    #[test]
    fn a_token_expires() {
        let tokens = Tokens::new(MINUTE, 2);
        let now = Instant::now();
        let token = tokens.issue_at(request("a"), now).unwrap();
        assert_eq!(tokens.redeem_at(&token, now + MINUTE), None);
        assert!(tokens.waiting.lock().is_empty());
    }

    #[test]
    fn tokens_are_bounded_and_expired_ones_make_room() {
        let tokens = Tokens::new(MINUTE, 2);
        let now = Instant::now();
        tokens.issue_at(request("a"), now).unwrap();
        tokens.issue_at(request("b"), now).unwrap();
        assert!(matches!(
            tokens.issue_at(request("c"), now),
            Err(Error::TooManyPrepared { limit: 2 })
        ));
        let later = now + MINUTE;
        let token = tokens.issue_at(request("c"), later).unwrap();
        assert_eq!(tokens.waiting.lock().len(), 1);
        assert_eq!(tokens.redeem_at(&token, later), Some(request("c")));
    }

    #[test]
    fn tokens_differ_and_fit_a_path() {
        let tokens = Tokens::new(MINUTE, 1000);
        let all: std::collections::HashSet<String> = (0..1000)
            .map(|_| tokens.issue(request("a")).unwrap())
            .collect();
        assert_eq!(all.len(), 1000);
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        assert!(all.iter().all(|t| t.len() == 32 && t.chars().all(fits)));
    }
}
