//! Logs to standard error, and traces to an OTLP collector where one is configured.

use anyhow::{Context, Result};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tonic::codegen::http::{HeaderMap, Request};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{Config, LogFormat};

/// Sends what is left when the daemon ends.
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    pub fn flush(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Installs the subscriber; inside the async runtime, which the exporter uses.
pub fn start(config: &Config) -> Result<Telemetry> {
    let filter = EnvFilter::try_new(&config.log.filter)
        .with_context(|| format!("log.filter {:?} is not a filter", config.log.filter))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log.format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let provider = provider(config)?;
    let spans = provider.as_ref().map(|provider| {
        // Spans are chosen by being spans of ours, not by the level that the log shows.
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("berthd"))
            .with_filter(EnvFilter::new("info,h2=off,hyper=off,tonic=off,tower=off"))
    });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .init();
    Ok(Telemetry { provider })
}

fn provider(config: &Config) -> Result<Option<SdkTracerProvider>> {
    let endpoint = &config.trace.otlp_endpoint;
    if endpoint.is_empty() {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("trace.otlp-endpoint {endpoint:?} cannot be used"))?;
    let resource = Resource::builder().with_service_name("berthd").build();
    Ok(Some(
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build(),
    ))
}

/// The span of one call. It continues the client's trace where the client names one (W3C
/// `traceparent`), as kubelets do.
pub fn request_span(request: &Request<()>) -> Span {
    let span = tracing::info_span!("grpc", method = request.uri().path());
    let headers = Headers(request.headers());
    if headers.get("traceparent").is_some() {
        // Refused only where nothing is exported: then there is nothing to continue.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&headers));
    }
    span
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}
