//! Statistics and metrics of several pods or containers at once: sampled by the core, told in the
//! contract's terms.

use std::path::Path;
use std::sync::Arc;

use berth_api::cri::v1 as cri;
use berth_lifecycle::{Container, Depth, Filesystem, Pod, Runtime, filesystem};
use tonic::Status;

use crate::status::of;
use crate::{Facts, metrics, usage};

/// Only containers that run have statistics worth listing.
pub async fn containers_stats(
    runtime: &Runtime,
    facts: &Facts,
    chosen: Vec<Arc<Container>>,
) -> Result<Vec<cri::ContainerStats>, Status> {
    let samples = runtime.containers_stats(chosen).await.map_err(of)?;
    let running = samples.iter().filter(|sample| sample.cgroup.is_some());
    Ok(running
        .map(|sample| usage::container(sample, &facts.snapshot_mount))
        .collect())
}

pub async fn pods_stats(
    runtime: &Runtime,
    facts: &Facts,
    chosen: Vec<Arc<Pod>>,
) -> Result<Vec<cri::PodSandboxStats>, Status> {
    let samples = runtime
        .pods_stats(chosen, Depth::Statistics)
        .await
        .map_err(of)?;
    Ok(samples
        .iter()
        .map(|sample| usage::pod(sample, &facts.snapshot_mount))
        .collect())
}

pub async fn pods_metrics(
    runtime: &Runtime,
    facts: &Facts,
    chosen: Vec<Arc<Pod>>,
) -> Result<Vec<cri::PodSandboxMetrics>, Status> {
    let layers = filesystem_of(&facts.snapshot_dir).await?;
    let samples = runtime
        .pods_stats(chosen, Depth::Metrics)
        .await
        .map_err(of)?;
    Ok(samples
        .iter()
        .map(|sample| metrics::pod(sample, &layers))
        .collect())
}

/// The file system that holds a directory; the look at it may block.
pub async fn filesystem_of(dir: &Path) -> Result<Filesystem, Status> {
    let dir = dir.to_owned();
    let looked = tokio::task::spawn_blocking(move || filesystem(&dir)).await;
    let found = looked.map_err(|_| Status::internal("the look at a file system was cut short"))?;
    found.map_err(of)
}
