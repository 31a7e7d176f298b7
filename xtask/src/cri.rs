//! The CRI over a unix socket, call by call, as a kubelet makes them.
//!
//! The calls block: what drives a runtime here does one thing at a time.

mod raw;
mod streamed;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use berth_api::cri::v1 as cri;
use cri::image_service_client::ImageServiceClient;
use cri::runtime_service_client::RuntimeServiceClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub use raw::Raw;

/// Longer than a pull from a registry that does not answer is tried again.
const LIMIT: Duration = Duration::from_secs(120);

/// What kubelets take.
const MAX_MESSAGE: usize = 16 << 20;

/// What a call ends with; the status is left as it came.
pub type Answer<T> = Result<T, Status>;

/// A connection to both services of one runtime.
pub struct Cri {
    runtime: tokio::runtime::Runtime,
    pods: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    pub fn connect(socket: &Path) -> Result<Self> {
        let (runtime, channel) = dial(socket, Some(LIMIT))?;
        let pods =
            RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let images = ImageServiceClient::new(channel);
        Ok(Self {
            runtime,
            pods,
            images,
        })
    }

    /// Runs what only has to go on during calls, such as a registry for their pulls.
    pub fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Name and version of the runtime.
    pub fn version(&mut self) -> Answer<cri::VersionResponse> {
        let request = cri::VersionRequest::default();
        let answer = self.runtime.block_on(self.pods.version(request))?;
        Ok(answer.into_inner())
    }

    /// Answers with the id of the pod.
    pub fn run_pod(&mut self, config: &cri::PodSandboxConfig) -> Answer<String> {
        self.run_pod_by(config, "")
    }

    /// Like `run_pod`, by a runtime handler.
    pub fn run_pod_by(&mut self, config: &cri::PodSandboxConfig, handler: &str) -> Answer<String> {
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let answer = self.runtime.block_on(self.pods.run_pod_sandbox(request))?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    /// The runtime handlers that it has.
    pub fn handlers(&mut self) -> Answer<Vec<cri::RuntimeHandler>> {
        let request = cri::StatusRequest::default();
        let answer = self.runtime.block_on(self.pods.status(request))?;
        Ok(answer.into_inner().runtime_handlers)
    }

    pub fn stop_pod(&mut self, pod: &str) -> Answer<()> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.runtime
            .block_on(self.pods.stop_pod_sandbox(request))
            .map(drop)
    }

    pub fn remove_pod(&mut self, pod: &str) -> Answer<()> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.runtime
            .block_on(self.pods.remove_pod_sandbox(request))
            .map(drop)
    }

    pub fn pod_status(&mut self, pod: &str) -> Answer<cri::PodSandboxStatusResponse> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: pod.to_owned(),
            verbose: false,
        };
        let answer = self
            .runtime
            .block_on(self.pods.pod_sandbox_status(request))?;
        Ok(answer.into_inner())
    }

    pub fn pods(&mut self) -> Answer<Vec<cri::PodSandbox>> {
        let request = cri::ListPodSandboxRequest::default();
        let answer = self.runtime.block_on(self.pods.list_pod_sandbox(request))?;
        let pods = answer.into_inner().decoded();
        pods.map_err(|error| Status::data_loss(error.to_string()))
    }

    /// Answers with the id of the container.
    pub fn create(
        &mut self,
        pod: &str,
        pod_config: &cri::PodSandboxConfig,
        config: &cri::ContainerConfig,
    ) -> Answer<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(pod_config.clone()),
        };
        let answer = self.runtime.block_on(self.pods.create_container(request))?;
        Ok(answer.into_inner().container_id)
    }

    pub fn start(&mut self, container: &str) -> Answer<()> {
        let request = cri::StartContainerRequest {
            container_id: container.to_owned(),
        };
        self.runtime
            .block_on(self.pods.start_container(request))
            .map(drop)
    }

    /// `grace` in seconds; zero kills at once.
    pub fn stop(&mut self, container: &str, grace: i64) -> Answer<()> {
        let request = cri::StopContainerRequest {
            container_id: container.to_owned(),
            timeout: grace,
        };
        self.runtime
            .block_on(self.pods.stop_container(request))
            .map(drop)
    }

    pub fn remove(&mut self, container: &str) -> Answer<()> {
        let request = cri::RemoveContainerRequest {
            container_id: container.to_owned(),
        };
        self.runtime
            .block_on(self.pods.remove_container(request))
            .map(drop)
    }

    pub fn containers(&mut self) -> Answer<Vec<cri::Container>> {
        let request = cri::ListContainersRequest::default();
        let answer = self.runtime.block_on(self.pods.list_containers(request))?;
        let containers = answer.into_inner().decoded();
        containers.map_err(|error| Status::data_loss(error.to_string()))
    }

    pub fn status(&mut self, container: &str) -> Answer<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: false,
        };
        let answer = self.runtime.block_on(self.pods.container_status(request))?;
        let status = answer.into_inner().status;
        status.ok_or_else(|| Status::data_loss("the answer holds no status"))
    }

    /// Pid of the container's first process, from the verbose status.
    pub fn pid(&mut self, container: &str) -> Result<i32> {
        let request = cri::ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: true,
        };
        let answer = self.runtime.block_on(self.pods.container_status(request))?;
        let info = answer.into_inner().info;
        let info = info.get("info").context("the verbose status is empty")?;
        let info: serde_json::Value =
            serde_json::from_str(info).context("reading the verbose status")?;
        let pid = info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.context("the verbose status has no pid")
    }

    pub fn update(&mut self, container: &str, linux: &cri::LinuxContainerResources) -> Answer<()> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: container.to_owned(),
            linux: Some(linux.clone()),
            ..Default::default()
        };
        self.runtime
            .block_on(self.pods.update_container_resources(request))
            .map(drop)
    }

    pub fn update_pod(&mut self, pod: &str, linux: &cri::LinuxContainerResources) -> Answer<()> {
        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.to_owned(),
            resources: Some(linux.clone()),
            ..Default::default()
        };
        self.runtime
            .block_on(self.pods.update_pod_sandbox_resources(request))
            .map(drop)
    }

    pub fn reopen_log(&mut self, container: &str) -> Answer<()> {
        let request = cri::ReopenContainerLogRequest {
            container_id: container.to_owned(),
        };
        self.runtime
            .block_on(self.pods.reopen_container_log(request))
            .map(drop)
    }

    /// Events from now on.
    pub fn events(&mut self) -> Answer<tonic::Streaming<cri::ContainerEventResponse>> {
        let request = cri::GetEventsRequest::default();
        let answer = self
            .runtime
            .block_on(self.pods.get_container_events(request))?;
        Ok(answer.into_inner())
    }

    pub fn stats(&mut self, container: &str) -> Answer<()> {
        let request = cri::ContainerStatsRequest {
            container_id: container.to_owned(),
        };
        self.runtime
            .block_on(self.pods.container_stats(request))
            .map(drop)
    }

    /// As the contract numbers them.
    pub fn cgroup_driver(&mut self) -> Result<i32> {
        let request = cri::RuntimeConfigRequest::default();
        let answer = self.runtime.block_on(self.pods.runtime_config(request))?;
        let linux = answer.into_inner().linux.context("nothing about Linux")?;
        Ok(linux.cgroup_driver)
    }

    pub fn sample(&mut self, container: &str) -> Result<cri::ContainerStats> {
        let request = cri::ContainerStatsRequest {
            container_id: container.to_owned(),
        };
        let answer = self.runtime.block_on(self.pods.container_stats(request))?;
        answer.into_inner().stats.context("an answer without them")
    }

    pub fn exec(&mut self, container: &str, words: &[&str]) -> Answer<cri::ExecSyncResponse> {
        self.exec_within(container, words, 30)
    }

    /// The URL of a command with input.
    pub fn exec_url(&mut self, container: &str, words: &[&str]) -> Answer<String> {
        let request = cri::ExecRequest {
            container_id: container.to_owned(),
            cmd: words.iter().map(|word| (*word).to_owned()).collect(),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let answer = self.runtime.block_on(self.pods.exec(request))?;
        Ok(answer.into_inner().url)
    }

    pub fn attach_url(&mut self, container: &str) -> Answer<String> {
        let request = cri::AttachRequest {
            container_id: container.to_owned(),
            stdin: true,
            stdout: true,
            stderr: true,
            tty: false,
        };
        let answer = self.runtime.block_on(self.pods.attach(request))?;
        Ok(answer.into_inner().url)
    }

    /// `timeout` in seconds.
    pub fn exec_within(
        &mut self,
        container: &str,
        words: &[&str],
        timeout: i64,
    ) -> Answer<cri::ExecSyncResponse> {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: words.iter().map(|word| (*word).to_owned()).collect(),
            timeout,
        };
        let answer = self.runtime.block_on(self.pods.exec_sync(request))?;
        Ok(answer.into_inner())
    }

    /// Answers with the id of the image.
    pub fn pull(&mut self, reference: &str) -> Answer<String> {
        let request = cri::PullImageRequest {
            image: Some(image(reference)),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.images.pull_image(request))?;
        Ok(answer.into_inner().image_ref)
    }

    /// The same, as a user of the registry.
    pub fn pull_as(&mut self, reference: &str, user: &str, password: &str) -> Answer<String> {
        let request = cri::PullImageRequest {
            image: Some(image(reference)),
            auth: Some(cri::AuthConfig {
                username: user.to_owned(),
                password: password.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = self.runtime.block_on(self.images.pull_image(request))?;
        Ok(answer.into_inner().image_ref)
    }

    pub fn remove_image(&mut self, reference: &str) -> Answer<()> {
        let request = cri::RemoveImageRequest {
            image: Some(image(reference)),
        };
        self.runtime
            .block_on(self.images.remove_image(request))
            .map(drop)
    }

    pub fn images(&mut self) -> Answer<Vec<cri::Image>> {
        let request = cri::ListImagesRequest::default();
        let answer = self.runtime.block_on(self.images.list_images(request))?;
        Ok(answer.into_inner().images)
    }
}

/// A connection, with what drives it; without a limit calls may take as long as they like.
pub fn dial(socket: &Path, limit: Option<Duration>) -> Result<(tokio::runtime::Runtime, Channel)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("preparing a gRPC client")?;
    let mut endpoint = Endpoint::try_from(format!("unix://{}", socket.display()))
        .with_context(|| format!("address of {}", socket.display()))?;
    if let Some(limit) = limit {
        endpoint = endpoint.timeout(limit);
    }
    let channel = runtime
        .block_on(endpoint.connect())
        .with_context(|| format!("connecting to {}", socket.display()))?;
    Ok((runtime, channel))
}

/// An image as requests name it.
pub fn image(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: reference.to_owned(),
        ..Default::default()
    }
}

/// A pod on the network of its own, as kubelets ask for one.
pub fn pod(name: &str, cgroup_parent: &str, logs: &Path) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "suite".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.display().to_string(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container that runs `command` under the runtime's own seccomp profile.
pub fn container(name: &str, reference: &str, command: &[&str]) -> cri::ContainerConfig {
    let security = cri::LinuxContainerSecurityContext {
        seccomp: Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::RuntimeDefault as i32,
            ..Default::default()
        }),
        ..Default::default()
    };
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(image(reference)),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                cpu_shares: 512,
                memory_limit_in_bytes: 64 << 20,
                ..Default::default()
            }),
            security_context: Some(security),
        }),
        ..Default::default()
    }
}
