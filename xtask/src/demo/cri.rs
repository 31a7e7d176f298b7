//! The calls of the CRI that the story makes, as a kubelet makes them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_api::cri::v1::image_service_client::ImageServiceClient;
use berth_api::cri::v1::runtime_service_client::RuntimeServiceClient;
use berth_api::cri::v1::{
    ContainerConfig, ContainerStats, ContainerStatsRequest, ContainerStatus,
    ContainerStatusRequest, CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, Image,
    ImageSpec, ImageStatusRequest, PodSandboxConfig, PodSandboxStats, PodSandboxStatsRequest,
    PodSandboxStatus, PodSandboxStatusRequest, PullImageRequest, RemoveContainerRequest,
    RemoveImageRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopPodSandboxRequest, VersionRequest, VersionResponse,
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// No call of the story takes longer on a working machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A connection to both services of a daemon.
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    pub async fn connect(socket: PathBuf) -> Result<Self> {
        // The address only fills the request's authority.
        let channel = Endpoint::from_static("http://berthd")
            .timeout(LIMIT)
            .connect_with_connector(tower::service_fn(move |_| dial(socket.clone())))
            .await
            .context("connecting to berthd")?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        })
    }

    pub async fn version(&mut self) -> Result<VersionResponse> {
        let request = VersionRequest::default();
        Ok(self.runtime.version(request).await?.into_inner())
    }

    /// Pulls and returns what the daemon knows of the image.
    pub async fn pull(&mut self, reference: &str) -> Result<Image> {
        let request = PullImageRequest {
            image: Some(named(reference)),
            ..Default::default()
        };
        let pulled = self.images.pull_image(request).await?.into_inner();
        let request = ImageStatusRequest {
            image: Some(named(&pulled.image_ref)),
            ..Default::default()
        };
        let status = self.images.image_status(request).await?.into_inner();
        status.image.context("a pulled image is not there")
    }

    pub async fn remove_image(&mut self, id: &str) -> Result<()> {
        let request = RemoveImageRequest {
            image: Some(named(id)),
        };
        self.images.remove_image(request).await?;
        Ok(())
    }

    /// Returns the id.
    pub async fn run_pod(&mut self, config: &PodSandboxConfig) -> Result<String> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        let pod = self.runtime.run_pod_sandbox(request).await?.into_inner();
        Ok(pod.pod_sandbox_id)
    }

    pub async fn pod_status(&mut self, id: &str) -> Result<PodSandboxStatus> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            ..Default::default()
        };
        let status = self.runtime.pod_sandbox_status(request).await?.into_inner();
        status.status.context("no status of the pod")
    }

    pub async fn stop_pod(&mut self, id: &str) -> Result<()> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime.stop_pod_sandbox(request).await?;
        Ok(())
    }

    pub async fn remove_pod(&mut self, id: &str) -> Result<()> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.runtime.remove_pod_sandbox(request).await?;
        Ok(())
    }

    /// Returns the id.
    pub async fn create(
        &mut self,
        pod: &str,
        pod_config: &PodSandboxConfig,
        config: ContainerConfig,
    ) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod_config.clone()),
        };
        let created = self.runtime.create_container(request).await?.into_inner();
        Ok(created.container_id)
    }

    pub async fn start(&mut self, id: &str) -> Result<()> {
        let request = StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime.start_container(request).await?;
        Ok(())
    }

    pub async fn status(&mut self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            ..Default::default()
        };
        let status = self.runtime.container_status(request).await?.into_inner();
        status.status.context("no status of the container")
    }

    pub async fn exec(&mut self, id: &str, words: &[&str]) -> Result<ExecSyncResponse> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: words.iter().map(|word| (*word).to_owned()).collect(),
            timeout: 10,
        };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    pub async fn stats(&mut self, id: &str) -> Result<ContainerStats> {
        let request = ContainerStatsRequest {
            container_id: id.to_owned(),
        };
        let stats = self.runtime.container_stats(request).await?.into_inner();
        stats.stats.context("no statistics of the container")
    }

    pub async fn pod_stats(&mut self, id: &str) -> Result<PodSandboxStats> {
        let request = PodSandboxStatsRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let stats = self.runtime.pod_sandbox_stats(request).await?.into_inner();
        stats.stats.context("no statistics of the pod")
    }

    /// Kills the container when it has not ended by itself after ten seconds.
    pub async fn stop(&mut self, id: &str) -> Result<()> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: 10,
        };
        self.runtime.stop_container(request).await?;
        Ok(())
    }

    pub async fn remove(&mut self, id: &str) -> Result<()> {
        let request = RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime.remove_container(request).await?;
        Ok(())
    }
}

pub fn named(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    }
}

async fn dial(socket: impl AsRef<Path>) -> std::io::Result<TokioIo<UnixStream>> {
    UnixStream::connect(socket).await.map(TokioIo::new)
}
