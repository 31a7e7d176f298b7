//! Counts calls around both doors: how many, how they end, how long until the answer begins.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http_body::{Body as HttpBody, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

type ByMethod = [(&'static str, String); 1];
type ByEnd = [(&'static str, String); 2];

/// Clones share their counts.
#[derive(Debug, Clone)]
pub struct Calls {
    ended: Family<ByEnd, Counter>,
    seconds: Family<ByMethod, Histogram, fn() -> Histogram>,
    under_way: Gauge,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            ended: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            under_way: Gauge::default(),
        }
    }
}

/// From 0.1 ms, as lists take, to 100 s, beyond which clients give up.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.5, 16))
}

impl Calls {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "grpc_calls",
            "Calls that have ended, by method and status",
            self.ended.clone(),
        );
        registry.register_with_unit(
            "grpc_call_duration",
            "Time until the answer, or the first message of a stream",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "grpc_calls_in_progress",
            "Calls that have not ended, streams included",
            self.under_way.clone(),
        );
    }

    pub fn layer(&self) -> CallsLayer {
        CallsLayer(self.clone())
    }

    fn begin(&self, path: &str) -> Call {
        self.under_way.inc();
        Call {
            calls: self.clone(),
            method: path.rsplit('/').next().unwrap_or_default().to_owned(),
            begin: Instant::now(),
            code: None,
        }
    }
}

/// One call; counted when it is dropped.
struct Call {
    calls: Calls,
    method: String,
    begin: Instant,
    /// None as long as it has not ended: a client that leaves cancels it.
    code: Option<Code>,
}

impl Call {
    fn answered(&self) {
        let labels = [("method", self.method.clone())];
        let seconds = self.begin.elapsed().as_secs_f64();
        let histogram = self.calls.seconds.get_or_create(&labels);
        histogram.observe(seconds);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.under_way.dec();
        let code = self.code.unwrap_or(Code::Cancelled);
        // A method that nobody knows is a name that anybody may choose.
        let method = match code {
            Code::Unimplemented => "unknown".to_owned(),
            _ => std::mem::take(&mut self.method),
        };
        let labels = [("method", method), ("code", format!("{code:?}"))];
        self.calls.ended.get_or_create(&labels).inc();
    }
}

#[derive(Debug, Clone)]
pub struct CallsLayer(Calls);

#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
}

impl<S> Layer<S> for CallsLayer {
    type Service = Counted<S>;
    fn layer(&self, inner: S) -> Self::Service {
        Counted {
            inner,
            calls: self.0.clone(),
        }
    }
}

impl<S, B> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut call = self.calls.begin(request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            call.code = code(response.headers());
            if call.code != Some(Code::Unimplemented) {
                call.answered();
            }
            if call.code.is_some() {
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(CountedBody { body, call })))
        })
    }
}

/// A body whose trailers tell how the call ended.
struct CountedBody {
    body: Body,
    call: Call,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.code = code(trailers);
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.code = Some(status.code()),
            Poll::Ready(None) => {
                self.call.code.get_or_insert(Code::Ok);
            }
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// `grpc-status`, in the headers of an answer without a message and else in the trailers.
fn code(headers: &HeaderMap) -> Option<Code> {
    let status = headers.get("grpc-status")?;
    Some(Code::from_bytes(status.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::convert::Infallible;
    use tonic::Status;

    async fn through(
        calls: &Calls,
        path: &str,
        answer: impl FnOnce() -> Response<Body> + Clone + Send + 'static,
    ) -> Response<Body> {
        let inner = tower::service_fn(move |_: Request<Body>| {
            let response = answer.clone()();
            async move { Ok::<_, Infallible>(response) }
        });
        let mut service = calls.layer().layer(inner);
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        service.call(request).await.unwrap()
    }

    fn count(calls: &Calls, method: &str, code: &str) -> u64 {
        let labels = [("method", method.to_owned()), ("code", code.to_owned())];
        calls.ended.get_or_create(&labels).get()
    }

    fn with_trailers(code: &'static str) -> Response<Body> {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.parse().unwrap());
        let body = http_body_util::Full::new(Bytes::from_static(b"x"));
        let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
        Response::new(Body::new(body))
    }

    #[tokio::test]
    async fn a_call_is_counted_by_how_it_ended() {
        let calls = Calls::default();
        let ok = through(&calls, "/runtime.v1.RuntimeService/Version", || {
            with_trailers("0")
        })
        .await;
        assert_eq!(count(&calls, "Version", "Ok"), 0, "it has not ended");
        assert_eq!(calls.under_way.get(), 1);
        ok.into_body().collect().await.unwrap();
        assert_eq!(count(&calls, "Version", "Ok"), 1);
        let late = through(&calls, "/r/Version", || with_trailers("13")).await;
        late.into_body().collect().await.unwrap();
        assert_eq!(count(&calls, "Version", "Internal"), 1);
        let refused = || Status::not_found("x").into_http();
        drop(through(&calls, "/r/ContainerStatus", refused).await);
        assert_eq!(count(&calls, "ContainerStatus", "NotFound"), 1);
        assert_eq!(calls.under_way.get(), 0);
    }

    #[tokio::test]
    async fn a_client_that_leaves_cancels_and_unknown_methods_share_a_name() {
        let calls = Calls::default();
        drop(through(&calls, "/r/GetContainerEvents", || with_trailers("0")).await);
        assert_eq!(count(&calls, "GetContainerEvents", "Cancelled"), 1);
        for name in ["a", "b"] {
            let path = format!("/r/{name}");
            let refused = || Status::unimplemented("x").into_http();
            drop(through(&calls, &path, refused).await);
        }
        assert_eq!(count(&calls, "unknown", "Unimplemented"), 2);
    }
}
