use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::config::RegistryConfig;
use crate::{Error, Result};

/// How often and when to try again.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    left: u32,
    delay: Duration,
    limit: Duration,
}

impl Backoff {
    pub(crate) fn new(config: &RegistryConfig) -> Self {
        Self {
            left: config.retries,
            delay: config.retry_delay,
            limit: config.retry_delay_max,
        }
    }

    /// A single attempt.
    pub(crate) fn none() -> Self {
        Self {
            left: 0,
            delay: Duration::ZERO,
            limit: Duration::ZERO,
        }
    }

    /// How long to wait before the next attempt; `None` when it is over. The exponential part is
    /// spread over its upper half, so that clients that failed together do not return together.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        if self.left == 0 || asked.is_some_and(|asked| asked > self.limit) {
            return None;
        }
        self.left -= 1;
        let jittered = self.delay.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.delay = (self.delay * 2).min(self.limit);
        Some(jittered.max(asked.unwrap_or_default()))
    }

    /// Waits before another attempt after `error`, or returns it if there is to be none.
    pub(crate) async fn pause_after(&mut self, error: Error) -> Result<()> {
        if !error.is_temporary() {
            return Err(error);
        }
        let Some(delay) = self.next(error.retry_after()) else {
            return Err(error);
        };
        tracing::debug!(%error, ?delay, "registry request is tried again");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date, of which the past means now.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())])
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after(&header("120")), Some(Duration::from_secs(120)));
        assert_eq!(
            retry_after(&header("Sun, 06 Nov 1994 08:49:37 GMT")),
            Some(Duration::ZERO)
        );
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let wait = retry_after(&header(&soon)).unwrap();
        assert!((95..=100).contains(&wait.as_secs()), "{wait:?}");
        for bad in ["", "soon", "-1", "1.5"] {
            assert_eq!(retry_after(&header(bad)), None, "{bad:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn delays_grow_to_a_limit_and_end() {
        let limit = Duration::from_millis(400);
        let mut backoff = Backoff {
            left: 4,
            delay: Duration::from_millis(100),
            limit,
        };
        for full in [100, 200, 400, 400] {
            let delay = backoff.next(None).unwrap().as_millis();
            assert!((full / 2..=full).contains(&delay), "{delay} of {full}");
        }
        assert_eq!(backoff.next(None), None);
    }

    #[test]
    fn a_wish_is_honoured_up_to_the_limit() {
        let limit = Duration::from_secs(10);
        let mut backoff = Backoff {
            left: 9,
            delay: Duration::from_millis(1),
            limit,
        };
        assert_eq!(backoff.next(Some(limit)), Some(limit));
        assert_eq!(backoff.next(Some(limit * 2)), None);
        assert_eq!(Backoff::none().next(None), None);
    }
}
