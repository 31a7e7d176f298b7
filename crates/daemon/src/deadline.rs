//! The client's deadline (`grpc-timeout`), answered as the contract says: `DEADLINE_EXCEEDED`.
//!
//! The server library drops a call at its deadline too, but answers `CANCELLED`, and which of the
//! two a client sees would be a race. This layer is inside of it and ends the call a little before.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

/// How much earlier than the client a call is given up; a tenth of short deadlines.
const EARLIER: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer;

#[derive(Debug, Clone)]
pub struct WithDeadline<S>(S);

impl<S> Layer<S> for DeadlineLayer {
    type Service = WithDeadline<S>;
    fn layer(&self, inner: S) -> Self::Service {
        WithDeadline(inner)
    }
}

impl<S, B> Service<Request<B>> for WithDeadline<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = limit(request.headers());
        let answer = self.0.call(request);
        Box::pin(async move {
            let Some(limit) = limit else {
                return answer.await;
            };
            let early = limit - EARLIER.min(limit / 10);
            match tokio::time::timeout(early, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(Status::deadline_exceeded("the client's deadline passed").into_http()),
            }
        })
    }
}

/// `grpc-timeout` (gRPC over HTTP/2, "Timeout"): at most eight digits and a unit.
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let digits = text.get(..text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match &text[digits.len()..] {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit_and_nonsense_is_none() {
        let cases = [
            ("2H", Some(Duration::from_secs(7200))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("", None),
            ("m", None),
            ("5", None),
            ("5x", None),
            ("123456789S", None),
            ("-1S", None),
        ];
        for (text, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(limit(&headers), expected, "{text:?}");
        }
    }
}
