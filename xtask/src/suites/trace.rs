//! Traces as an OTLP collector receives them: a real one on the wire, in this process.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1 as api;
use berth_api::cri::v1::image_service_client::ImageServiceClient;
use berth_api::cri::v1::runtime_service_client::RuntimeServiceClient;
use berth_testkit::image::Recipe;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::cri;
use crate::daemon::Daemon;
use crate::outcome::Tally;
use crate::place::Place;
use crate::registry::Registry;
use crate::suites::fixtures::{busybox, pack};
use crate::workspace;

/// The trace that the client says its calls belong to (W3C Trace Context).
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT_ID: &str = "b7ad6b7169203331";
/// Spans that one start of a pod, from the pull on, has to show.
const EXPECTED: [&str; 9] = [
    "grpc",
    "PullImage",
    "pull",
    "layer",
    "unpack",
    "snapshot",
    "shim launch",
    "shim create",
    "shim start",
];

pub fn run() -> Result<Tally> {
    println!("trace");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("trace suite", "needs root");
        return Ok(tally);
    }
    let spans = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("preparing the collector")?
        .block_on(collect());
    let shown = spans.and_then(|spans| judge(&spans));
    tally.check("one trace runs from the call to the shim", shown);
    Ok(tally)
}

/// Name, trace, own id and parent id, the last three in hexadecimal.
#[derive(Debug, Clone)]
struct Span {
    name: String,
    trace: String,
    id: String,
    parent: String,
}

#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let spans = resources
            .into_iter()
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .map(|span| Span {
                name: span.name,
                trace: hexadecimal(&span.trace_id),
                id: hexadecimal(&span.span_id),
                parent: hexadecimal(&span.parent_span_id),
            });
        let mut kept = self
            .0
            .lock()
            .map_err(|_| Status::internal("collector broken"))?;
        kept.extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Starts everything, runs one pod within the client's trace, and answers with what arrived.
async fn collect() -> Result<Vec<Span>> {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);

    let place = Place::new()?;
    place.configure(&format!("[trace]\notlp-endpoint = \"http://{address}\"\n"))?;
    let registry = Registry::start(&place.scratch())?;
    let image = Recipe::new().layer(pack(&busybox()?)?).build()?;
    registry.remote().push(&image, "trace/busybox", &["one"])?;
    let log = workspace::logs()?.join("trace-berthd.log");
    let daemon = Daemon::start(&place, &log)?;
    let reference = format!("{}/trace/busybox:one", registry.address());
    one_pod(&place, &reference)
        .await
        .with_context(|| format!("see {}", log.display()))?;
    // Ending sends what is still held back.
    tokio::task::block_in_place(|| daemon.stop().and_then(|()| place.bridge().remove()))?;
    server.abort();
    let spans = collector
        .0
        .lock()
        .map_err(|_| anyhow::anyhow!("collector broken"))?;
    Ok(spans.clone())
}

async fn one_pod(place: &Place, reference: &str) -> Result<()> {
    let channel: Channel = Endpoint::try_from(format!("unix://{}", place.socket().display()))?
        .timeout(Duration::from_secs(60))
        .connect()
        .await?;
    let traced = |mut request: Request<()>| -> Result<Request<()>, Status> {
        let header = format!("00-{TRACE_ID}-{PARENT_ID}-01");
        let value = header
            .parse()
            .map_err(|_| Status::internal("traceparent"))?;
        request.metadata_mut().insert("traceparent", value);
        Ok(request)
    };
    let mut images = ImageServiceClient::with_interceptor(channel.clone(), traced);
    let mut pods = RuntimeServiceClient::with_interceptor(channel, traced);
    images
        .pull_image(api::PullImageRequest {
            image: Some(cri::image(reference)),
            ..Default::default()
        })
        .await?;
    let pod_config = cri::pod("trace", "", &place.pod_logs());
    let pod = pods
        .run_pod_sandbox(api::RunPodSandboxRequest {
            config: Some(pod_config.clone()),
            ..Default::default()
        })
        .await?
        .into_inner()
        .pod_sandbox_id;
    let container_id = pods
        .create_container(api::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(cri::container("trace", reference, &["sleep", "60"])),
            sandbox_config: Some(pod_config),
        })
        .await?
        .into_inner()
        .container_id;
    pods.start_container(api::StartContainerRequest { container_id })
        .await?;
    pods.remove_pod_sandbox(api::RemovePodSandboxRequest {
        pod_sandbox_id: pod,
    })
    .await?;
    Ok(())
}

/// All spans that are expected are there, in the client's trace, and each hangs on one that is.
fn judge(spans: &[Span]) -> Result<()> {
    let ours: Vec<&Span> = spans.iter().filter(|span| span.trace == TRACE_ID).collect();
    let names: BTreeSet<&str> = ours.iter().map(|span| span.name.as_str()).collect();
    for expected in EXPECTED {
        ensure!(
            names.contains(expected),
            "no span {expected:?} in the client's trace, only {names:?}"
        );
    }
    let ids: BTreeSet<&str> = ours.iter().map(|span| span.id.as_str()).collect();
    for span in &ours {
        let known = ids.contains(span.parent.as_str()) || span.parent == PARENT_ID;
        ensure!(known, "{span:?} hangs on a span that never arrived");
    }
    Ok(())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
