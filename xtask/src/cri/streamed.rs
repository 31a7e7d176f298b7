//! The lists that come as streams.

use berth_api::cri::v1 as cri;
use tonic::Streaming;

use super::{Answer, Cri};

/// Ids of what each of the six streams held, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Streamed {
    pub pods: Vec<String>,
    pub containers: Vec<String>,
    pub container_stats: Vec<String>,
    pub pod_stats: Vec<String>,
    pub pod_metrics: Vec<String>,
    pub images: Vec<String>,
}

impl Cri {
    pub fn streamed(&mut self) -> Answer<Streamed> {
        let (pods, images) = (&mut self.pods, &mut self.images);
        self.runtime.block_on(async {
            let mut found = Streamed::default();
            let stream = pods
                .stream_pod_sandboxes(cri::StreamPodSandboxesRequest::default())
                .await?;
            for message in drain(stream.into_inner()).await? {
                found
                    .pods
                    .extend(message.pod_sandboxes.into_iter().map(|pod| pod.id));
            }
            let stream = pods
                .stream_containers(cri::StreamContainersRequest::default())
                .await?;
            for message in drain(stream.into_inner()).await? {
                let ids = message.containers.into_iter().map(|listed| listed.id);
                found.containers.extend(ids);
            }
            let stream = pods
                .stream_container_stats(cri::StreamContainerStatsRequest::default())
                .await?;
            for message in drain(stream.into_inner()).await? {
                let attributes = message.container_stats.into_iter().map(|s| s.attributes);
                let ids = attributes.map(|attributes| attributes.unwrap_or_default().id);
                found.container_stats.extend(ids);
            }
            let stream = pods
                .stream_pod_sandbox_stats(cri::StreamPodSandboxStatsRequest::default())
                .await?;
            for message in drain(stream.into_inner()).await? {
                let attributes = message.pod_sandbox_stats.into_iter().map(|s| s.attributes);
                let ids = attributes.map(|attributes| attributes.unwrap_or_default().id);
                found.pod_stats.extend(ids);
            }
            let stream = pods
                .stream_pod_sandbox_metrics(cri::StreamPodSandboxMetricsRequest::default())
                .await?;
            for message in drain(stream.into_inner()).await? {
                let ids = message.pod_sandbox_metrics.into_iter();
                found.pod_metrics.extend(ids.map(|pod| pod.pod_sandbox_id));
            }
            let stream = images
                .stream_images(cri::StreamImagesRequest::default())
                .await?;
            for message in drain(stream.into_inner()).await? {
                let ids = message.images.into_iter().map(|image| image.id);
                found.images.extend(ids);
            }
            Ok(found)
        })
    }
}

async fn drain<M>(mut stream: Streaming<M>) -> Answer<Vec<M>> {
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message);
    }
    Ok(messages)
}
