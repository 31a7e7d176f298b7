//! Serving until told to stop.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_cri::Facts;
use berth_images::{Images, Pace};
use berth_lifecycle::Runtime;
use berth_network::{Network, Networks};
use berth_tls::Tls;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::config::{Config, Scrub};
use crate::deadline::DeadlineLayer;
use crate::metrics::calls::Calls;
use crate::wiring::{self, House};
use crate::{metrics, telemetry};

/// How long requests in flight may take to finish at the end.
const FAREWELL: Duration = Duration::from_secs(10);
/// How often the network's rules are looked at: flushed by others, they are restored within this.
const HEAL: Duration = Duration::from_secs(5);

/// How often CNI plugins are told which attachments are valid.
const COLLECT: Duration = Duration::from_secs(300);
/// When that is tried again because pods came or went just then.
const COLLECT_SOON: Duration = Duration::from_secs(10);

/// When image content that nothing needs is looked for first: a pull that a restart cut short is
/// tried again by then, and takes up what it had.
const SWEEP_FIRST: Duration = Duration::from_secs(600);
/// How often from then on.
const SWEEP: Duration = Duration::from_secs(3600);

/// Bytes on their way to one client; the kernel bounds it by `net.core.wmem_max`.
const SEND_BUFFER: usize = 4 << 20;
/// When it is first looked whether images are to be read again, and how often at most from then on.
const SCRUB_FIRST: Duration = Duration::from_secs(600);
const SCRUB_LEAST: Duration = Duration::from_secs(1);

/// How often free memory is given back.
const TIDY: Duration = Duration::from_secs(10);

/// Who reaches a door owns the node.
const CRI_MODE: u32 = 0o600;
/// The group is root's until an administrator gives it to another.
const DOCKER_MODE: u32 = 0o660;

/// Opens the house, serves its doors, and returns when a signal said so. Containers keep running.
pub async fn serve(config: &Config) -> Result<()> {
    let house = wiring::open(config).await?;
    let events = house.runtime.clone();
    let listener = listen(&config.socket, CRI_MODE).await?;
    let docker = docker(config, &house).await?;
    tokio::spawn(heal(house.network.clone(), house.networks.clone()));
    tokio::spawn(tidy());
    tokio::spawn(sweep(Arc::clone(&house.images)));
    if config.scrub.every_secs > 0 {
        tokio::spawn(scrub(Arc::clone(&house.images), config.scrub.clone()));
    }
    tokio::spawn(collect(house.runtime.clone(), house.network.clone()));
    let calls = Calls::default();
    if let Some(address) = config.metrics.socket_address()? {
        let counted = metrics::registry(
            &calls,
            &house.images.meters(),
            &house.store,
            house.runtime.clone(),
        );
        let listener = metrics::endpoint::listen(address).await?;
        tokio::spawn(metrics::endpoint::serve(listener, counted));
    }
    let (streams, urls) = wiring::streaming(config, &house).await?;
    let streams = start_streams(streams);
    let facts = facts(config);
    let (runtime, images) =
        berth_cri::services(house.runtime, house.images, house.network, urls, facts);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = Server::builder()
        .trace_fn(telemetry::request_span)
        .layer(calls.layer())
        .layer(DeadlineLayer)
        .add_service(runtime)
        .add_service(images)
        .serve_with_incoming_shutdown(connections(listener), async {
            let _ = stopped.await;
        });
    let mut server = tokio::spawn(server);
    tracing::info!(socket = %config.socket.display(), version = env!("CARGO_PKG_VERSION"), "serving");

    tokio::select! {
        name = told_to_stop() => tracing::info!(signal = name?, "stopping; containers keep running"),
        ended = &mut server => {
            ended.context("the server was cut short")?.context("the server failed")?;
            bail!("the server ended by itself");
        }
    }
    // Whoever listens to events would do so for ever.
    events.close_events();
    // Streams have no end of their own; commands are hung up while there is time for it.
    drop(streams);
    drop(docker);
    let _ = stop.send(());
    if tokio::time::timeout(FAREWELL, server).await.is_err() {
        tracing::warn!("requests were still in flight");
    }
    let _ = fs::remove_file(&config.socket);
    if config.serves_docker() {
        let _ = fs::remove_file(&config.docker_socket);
    }
    Ok(())
}

/// Connections that take a list of thousands at once: with less room the daemon and its client would
/// take turns for every part of it, each turn a wait for a busy processor.
fn connections(
    listener: UnixListener,
) -> impl tokio_stream::Stream<Item = std::io::Result<UnixStream>> {
    UnixListenerStream::new(listener).map(|connection| {
        connection.inspect(|stream| {
            // Without it answers are whole all the same.
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER);
        })
    })
}

/// Serves the Docker door wherever it is configured to be.
async fn docker(config: &Config, house: &House) -> Result<Vec<Ending>> {
    let remote = config.docker.remote.socket_address()?;
    if !config.serves_docker() && remote.is_none() {
        return Ok(Vec::new());
    }
    let engine = wiring::engine(config, house);
    let mut served = Vec::new();
    if config.serves_docker() {
        let socket = &config.docker_socket;
        let listener = listen(socket, DOCKER_MODE).await?;
        tracing::info!(socket = %socket.display(), "serving the Docker API");
        let serving = berth_engine::serve(Arc::clone(&engine), listener);
        served.push(Ending(tokio::spawn(serving)));
    }
    if let Some(address) = remote {
        let files = &config.docker.remote;
        let tls = Tls::mutual(&files.tls_cert, &files.tls_key, &files.tls_client_ca)
            .context("the files of docker.remote cannot be used")?;
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        tracing::info!(%address, "serving the Docker API to clients with a certificate");
        let serving = berth_engine::serve_remote(engine, listener, tls);
        served.push(Ending(tokio::spawn(serving)));
    }
    Ok(served)
}

fn facts(config: &Config) -> Facts {
    let snapshot_dir = config.root.join("snapshots");
    let found = berth_lifecycle::filesystem(&snapshot_dir);
    Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config: serde_json::to_value(config).unwrap_or_default(),
        seccomp_dir: config.seccomp_dir.clone(),
        image_dir: config.root.join("content"),
        snapshot_mount: found.map_or_else(|_| snapshot_dir.clone(), |found| found.mount_point),
        snapshot_dir,
    }
}

/// A socket that a dead daemon left is replaced; one that answers is somebody's.
async fn listen(path: &Path, mode: u32) -> Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {parent:?}"))?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            bail!("{path:?} is served by another process: choose another socket");
        }
        fs::remove_file(path).with_context(|| format!("cannot replace {path:?}"))?;
    }
    // Made under a name that nobody knows, so that it is never there with other permissions.
    let hidden = path.with_extension(format!("{}.tmp", std::process::id()));
    let listener =
        UnixListener::bind(&hidden).with_context(|| format!("cannot listen on {path:?}"))?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(mode))
        .and_then(|()| fs::rename(&hidden, path))
        .with_context(|| format!("cannot listen on {path:?}"))?;
    Ok(listener)
}

/// A server that ends with its value, and all its streams with it.
struct Ending(tokio::task::JoinHandle<()>);

fn start_streams(server: berth_streaming::Server) -> Ending {
    tracing::info!(address = %server.address(), "serving exec, attach and port-forward");
    Ending(tokio::spawn(server.serve()))
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn heal(network: Network, networks: Networks) {
    let mut every = tokio::time::interval(HEAL);
    loop {
        every.tick().await;
        for healed in [network.heal().await, networks.heal().await] {
            match healed {
                Ok(true) => tracing::warn!("the network's rules were gone: restored"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the network's rules cannot be checked"),
            }
        }
    }
}

/// The first time was at the start, when the runtime was opened.
async fn collect(runtime: Runtime, network: Network) {
    let mut pause = COLLECT;
    loop {
        tokio::time::sleep(pause).await;
        let live = runtime.pods().iter().map(|pod| pod.id().clone()).collect();
        pause = match network.collect(&live).await {
            Ok(true) => COLLECT,
            Ok(false) => COLLECT_SOON,
            Err(error) => {
                tracing::warn!(%error, "a CNI plugin did not collect its garbage");
                COLLECT
            }
        };
    }
}

/// What a killed daemon began, and partial blobs that nobody resumed, would stay until an image is
/// removed.
async fn sweep(images: Arc<Images>) {
    let mut pause = SWEEP_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = SWEEP;
        if let Err(error) = images.collect().await {
            tracing::warn!(error = error.report(), "image content was not collected");
        }
    }
}

/// Reads all images again, slowly. A round that the last daemon began goes on first.
async fn scrub(images: Arc<Images>, config: Scrub) {
    let every = Duration::from_secs(config.every_secs);
    let mut pause = SCRUB_FIRST.min(every);
    loop {
        tokio::time::sleep(pause).await;
        let due = images.scrub_due(every);
        if due.is_zero()
            && let Err(error) = images.scrub(Pace(config.bytes_per_sec)).await
        {
            tracing::warn!(error = error.report(), "images were not read again");
        }
        // A clock that is set while a long sleep lasts would be noticed too late.
        pause = due.clamp(SCRUB_LEAST, SCRUB_FIRST);
    }
}

/// What pulls freed is kept by the allocator until it is asked for it.
async fn tidy() {
    let mut every = tokio::time::interval(TIDY);
    loop {
        every.tick().await;
        let _ = tokio::task::spawn_blocking(berth_kernel::release_free_memory).await;
    }
}

async fn told_to_stop() -> Result<&'static str> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}
