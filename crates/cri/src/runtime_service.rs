//! `runtime.v1.RuntimeService`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_api::cri::v1::{self as cri, runtime_service_server::RuntimeService};
use berth_api::encoded::{EncodedContainers, EncodedPods};
use berth_images::Images;
use berth_lifecycle::request::Owner;
use berth_lifecycle::{Afterwards, CgroupDriver, Container, Pod, Runtime};
use berth_network::Network;
use berth_streaming::Urls;
use futures::stream::{BoxStream, StreamExt};
use prost::Message;
use serde_json::json;
use tonic::{Request, Response, Status};

use crate::filter::{ContainerFilter, PodFilter};
use crate::samples::{containers_stats, pods_metrics, pods_stats};
use crate::status::{invalid, lagged, of, of_network};
use crate::streams::{self, Stream};
use crate::{Facts, ask, metrics, remote, tell, usage};

/// The version of the CRI that is spoken.
const API_VERSION: &str = "v1";
/// What Version answers for the client's own version, by the contract's long habit.
const KUBE_API_VERSION: &str = "0.1.0";

type Answer<T> = Result<Response<T>, Status>;

pub struct RuntimeDoor {
    runtime: Runtime,
    images: Arc<Images>,
    network: Network,
    urls: Urls,
    facts: Arc<Facts>,
}

impl RuntimeDoor {
    pub(crate) fn new(
        runtime: Runtime,
        images: Arc<Images>,
        network: Network,
        urls: Urls,
        facts: Arc<Facts>,
    ) -> Self {
        Self {
            runtime,
            images,
            network,
            urls,
            facts,
        }
    }

    async fn conditions(&self) -> Vec<cri::RuntimeCondition> {
        let network = match self.network.ready().await {
            Ok(()) => (true, String::new(), String::new()),
            Err(missing) => (false, missing.reason.to_owned(), missing.message),
        };
        let condition = |name: &str, (status, reason, message)| cri::RuntimeCondition {
            r#type: name.to_owned(),
            status,
            reason,
            message,
        };
        vec![
            condition("RuntimeReady", (true, String::new(), String::new())),
            condition("NetworkReady", network),
        ]
    }

    fn handlers(&self) -> Vec<cri::RuntimeHandler> {
        let handlers = self.runtime.handlers().all();
        handlers
            .map(|(name, handler)| cri::RuntimeHandler {
                name: name.to_owned(),
                features: Some(cri::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: handler.features.recursive_read_only_mounts,
                    user_namespaces: handler.features.user_namespaces,
                }),
            })
            .collect()
    }

    fn chosen_containers(&self, filter: impl Into<ContainerFilter>) -> Vec<Arc<Container>> {
        let filter = filter.into();
        let mut all = self.runtime.containers();
        all.retain(|container| {
            let view = container.view();
            view.request.owner == Owner::Kubernetes && filter.takes(&view)
        });
        all
    }

    fn chosen_pods(&self, filter: impl Into<PodFilter>) -> Vec<Arc<Pod>> {
        let filter = filter.into();
        let mut all = self.runtime.pods();
        all.retain(|pod| {
            let view = pod.view();
            view.request.owner == Owner::Kubernetes && filter.takes(&view)
        });
        all
    }
}

fn info(value: serde_json::Value) -> HashMap<String, String> {
    HashMap::from([("info".to_owned(), value.to_string())])
}

fn to_json(record: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(record).unwrap_or_default()
}

fn duration(field: &str, seconds: i64) -> Result<Duration, Status> {
    u64::try_from(seconds)
        .map(Duration::from_secs)
        .map_err(|_| invalid(format!("{field} is {seconds}: it cannot be negative")))
}

#[tonic::async_trait]
impl RuntimeService for RuntimeDoor {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            version: KUBE_API_VERSION.to_owned(),
            runtime_name: "berth".to_owned(),
            runtime_version: self.facts.version.clone(),
            runtime_api_version: API_VERSION.to_owned(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let pod = ask::pod(request.config, request.runtime_handler)?;
        let id = self.runtime.run_pod(pod).await.map_err(of)?;
        Ok(Response::new(cri::RunPodSandboxResponse {
            pod_sandbox_id: id.to_string(),
        }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        self.runtime
            .stop_pod(&request.into_inner().pod_sandbox_id)
            .await
            .map_err(of)?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        self.runtime
            .remove_pod(&request.into_inner().pod_sandbox_id)
            .await
            .map_err(of)?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let timestamp = self.runtime.stamp();
        let pod = self.runtime.pod(&request.pod_sandbox_id).map_err(of)?;
        let view = pod.view();
        let containers = self.runtime.containers_of(pod.id());
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(tell::pod_status(&view)),
            info: if request.verbose {
                info(to_json(&*view))
            } else {
                HashMap::new()
            },
            containers_statuses: containers
                .iter()
                .map(|container| tell::container_status(&container.view()))
                .collect(),
            timestamp,
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<EncodedPods> {
        let pods = self.chosen_pods(request.into_inner().filter);
        let told = pods
            .iter()
            .map(|pod| pod.listed(|record| tell::pod(record).encode_to_vec().into()));
        Ok(Response::new(EncodedPods {
            items: told.collect(),
        }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let container = ask::container(request.config, &self.facts.seccomp_dir)?;
        let id = self
            .runtime
            .create_container(&request.pod_sandbox_id, container)
            .await
            .map_err(of)?;
        Ok(Response::new(cri::CreateContainerResponse {
            container_id: id.to_string(),
        }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        self.runtime
            .start_container(&request.into_inner().container_id)
            .await
            .map_err(of)?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        // Kubelets send negative grace periods for pods that are already overdue.
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        self.runtime
            .stop_container(&request.container_id, grace)
            .await
            .map_err(of)?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        self.runtime
            .remove_container(&request.into_inner().container_id)
            .await
            .map_err(of)?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<EncodedContainers> {
        let containers = self.chosen_containers(request.into_inner().filter);
        let told = containers.iter().map(|container| {
            container.listed(|record| tell::container(record).encode_to_vec().into())
        });
        Ok(Response::new(EncodedContainers {
            containers: told.collect(),
        }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let view = self
            .runtime
            .container(&request.container_id)
            .map_err(of)?
            .view();
        Ok(Response::new(cri::ContainerStatusResponse {
            status: Some(tell::container_status(&view)),
            info: if request.verbose {
                info(to_json(&*view))
            } else {
                HashMap::new()
            },
        }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id).map_err(of)?;
        let limits = request
            .linux
            .ok_or_else(|| invalid("linux resources are missing"))?;
        let mut resources = ask::resources(limits)?;
        // An update cannot say "no change" for this one; the process keeps what it was given.
        resources.oom_score_adj = None;
        container.update(resources).await.map_err(of)?;
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        let container = self
            .runtime
            .container(&request.into_inner().container_id)
            .map_err(of)?;
        container.reopen_log().await.map_err(of)?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        let timeout = duration("timeout", request.timeout)?;
        let container = self.runtime.container(&request.container_id).map_err(of)?;
        let output = container
            .exec_sync(&request.cmd, timeout)
            .await
            .map_err(of)?;
        Ok(Response::new(cri::ExecSyncResponse {
            stdout: output.stdout.into(),
            stderr: output.stderr.into(),
            exit_code: output.exit_code,
        }))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let container = self
            .runtime
            .container(&request.into_inner().container_id)
            .map_err(of)?;
        let sample = self.runtime.container_stats(&container).await.map_err(of)?;
        let stats = usage::container(&sample, &self.facts.snapshot_mount);
        Ok(Response::new(cri::ContainerStatsResponse {
            stats: Some(stats),
        }))
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let chosen = self.chosen_containers(request.into_inner().filter);
        let stats = containers_stats(&self.runtime, &self.facts, chosen).await?;
        Ok(Response::new(cri::ListContainerStatsResponse { stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let pod = self
            .runtime
            .pod(&request.into_inner().pod_sandbox_id)
            .map_err(of)?;
        let sample = self.runtime.pod_stats(&pod).await.map_err(of)?;
        let stats = usage::pod(&sample, &self.facts.snapshot_mount);
        Ok(Response::new(cri::PodSandboxStatsResponse {
            stats: Some(stats),
        }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let chosen = self.chosen_pods(request.into_inner().filter);
        let stats = pods_stats(&self.runtime, &self.facts, chosen).await?;
        Ok(Response::new(cri::ListPodSandboxStatsResponse { stats }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let network = request
            .into_inner()
            .runtime_config
            .and_then(|config| config.network_config);
        if let Some(cidr) = network
            .map(|network| network.pod_cidr)
            .filter(|cidr| !cidr.is_empty())
        {
            let ranges = ask::pod_ranges(&cidr)?;
            let network = self.network.clone();
            let set = tokio::task::spawn_blocking(move || network.set_pod_ranges(&ranges));
            let on_bridge = set
                .await
                .map_err(|_| Status::internal("the pod CIDR was not taken"))?
                .map_err(|error| of_network(&error))?;
            tracing::info!(cidr, on_bridge, "pod CIDR announced");
        }
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let verbose = request.into_inner().verbose;
        let mut info = HashMap::new();
        if verbose {
            let problem = self.runtime.checkpoint_problem().await;
            let checkpoint = problem.unwrap_or_else(|| "available".to_owned());
            info.extend([
                ("config".to_owned(), self.facts.config.to_string()),
                ("images".to_owned(), self.images.list().len().to_string()),
                ("checkpoint".to_owned(), json!(checkpoint).to_string()),
            ]);
        }
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: self.conditions().await,
            }),
            info,
            runtime_handlers: self.handlers(),
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: true,
            }),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        Ok(Response::new(cri::RuntimeConfigResponse {
            linux: Some(cri::LinuxRuntimeConfiguration {
                cgroup_driver: match self.runtime.cgroup_driver() {
                    CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs as i32,
                    CgroupDriver::Systemd => cri::CgroupDriver::Systemd as i32,
                },
            }),
        }))
    }

    type StreamPodSandboxesStream = Stream<cri::StreamPodSandboxesResponse>;
    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let pods = self.chosen_pods(request.into_inner().filter);
        Ok(Response::new(streams::of_records(
            pods,
            |pod| Some(tell::pod(&pod.view())),
            |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes },
        )))
    }

    type StreamContainersStream = Stream<cri::StreamContainersResponse>;
    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let containers = self.chosen_containers(request.into_inner().filter);
        Ok(Response::new(streams::of_records(
            containers,
            |container| Some(tell::container(&container.view())),
            |containers| cri::StreamContainersResponse { containers },
        )))
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let url = remote::exec(&self.runtime, &self.urls, request.into_inner())?;
        Ok(Response::new(cri::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let url = remote::attach(&self.runtime, &self.urls, request.into_inner())?;
        Ok(Response::new(cri::AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        let url = remote::port_forward(&self.runtime, &self.urls, request.into_inner())?;
        Ok(Response::new(cri::PortForwardResponse { url }))
    }

    type StreamContainerStatsStream = Stream<cri::StreamContainerStatsResponse>;
    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let chosen = self.chosen_containers(request.into_inner().filter);
        let (runtime, facts) = (self.runtime.clone(), Arc::clone(&self.facts));
        Ok(Response::new(streams::of_samples(
            chosen,
            move |batch| {
                let (runtime, facts) = (runtime.clone(), Arc::clone(&facts));
                async move { containers_stats(&runtime, &facts, batch).await }
            },
            |container_stats| cri::StreamContainerStatsResponse { container_stats },
        )))
    }

    type StreamPodSandboxStatsStream = Stream<cri::StreamPodSandboxStatsResponse>;
    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let chosen = self.chosen_pods(request.into_inner().filter);
        let (runtime, facts) = (self.runtime.clone(), Arc::clone(&self.facts));
        Ok(Response::new(streams::of_samples(
            chosen,
            move |batch| {
                let (runtime, facts) = (runtime.clone(), Arc::clone(&facts));
                async move { pods_stats(&runtime, &facts, batch).await }
            },
            |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats },
        )))
    }

    async fn checkpoint_container(
        &self,
        request: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        let request = request.into_inner();
        let seconds = u64::try_from(request.timeout)
            .map_err(|_| invalid(format!("timeout {} is negative", request.timeout)))?;
        let location = Path::new(&request.location);
        let timeout = Duration::from_secs(seconds);
        let made =
            self.runtime
                .checkpoint(&request.container_id, location, timeout, Afterwards::Runs);
        made.await.map_err(of)?;
        Ok(Response::new(cri::CheckpointContainerResponse {}))
    }

    type GetContainerEventsStream = BoxStream<'static, Result<cri::ContainerEventResponse, Status>>;
    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = futures::stream::unfold(self.runtime.events(), |mut events| async {
            let event = loop {
                match events.next().await? {
                    Ok(event) if event.pod.request.owner != Owner::Kubernetes => {}
                    event => break event,
                }
            };
            let told = event.map(|event| tell::event(&event)).map_err(lagged);
            Some((told, events))
        });
        Ok(Response::new(events.boxed()))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        Ok(Response::new(cri::ListMetricDescriptorsResponse {
            descriptors: metrics::descriptors(),
        }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        let ready = self.chosen_pods(PodFilter::ready());
        let pod_metrics = pods_metrics(&self.runtime, &self.facts, ready).await?;
        Ok(Response::new(cri::ListPodSandboxMetricsResponse {
            pod_metrics,
        }))
    }

    type StreamPodSandboxMetricsStream = Stream<cri::StreamPodSandboxMetricsResponse>;
    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let ready = self.chosen_pods(PodFilter::ready());
        let (runtime, facts) = (self.runtime.clone(), Arc::clone(&self.facts));
        Ok(Response::new(streams::of_samples(
            ready,
            move |batch| {
                let (runtime, facts) = (runtime.clone(), Arc::clone(&facts));
                async move { pods_metrics(&runtime, &facts, batch).await }
            },
            |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse {
                pod_sandbox_metrics,
            },
        )))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let pod = self.runtime.pod(&request.pod_sandbox_id).map_err(of)?;
        let overhead = request.overhead.map(ask::resources).transpose()?;
        let resources = request.resources.map(ask::resources).transpose()?;
        pod.update(overhead, resources).await.map_err(of)?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }
}
