//! The door to pods and containers.

use std::sync::Arc;
use std::time::Duration;

use berth_names::{ContainerId, SandboxId};

use crate::cgroup_driver::CgroupDriver;
use crate::container::{self, Container};
use crate::core::{Config, Core, Parts, name_key};
use crate::error::{Error, Result};
use crate::events::Subscription;
use crate::handlers::Handlers;
use crate::pod::{self, Pod};
use crate::record::Nanos;
use crate::recovery::{self, Recovered};
use crate::request::{ContainerRequest, PodRequest};

/// Pods and containers of one daemon. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) core: Arc<Core>,
}

impl Runtime {
    /// Rebuilds what was there before this daemon started and takes it over.
    pub async fn open(config: Config, parts: Parts) -> Result<(Self, Recovered)> {
        let core = Arc::new(Core::new(config, parts));
        core.launcher.warm_up().await;
        let recovered = recovery::recover(&core).await?;
        Ok((Self { core }, recovered))
    }

    /// Makes a pod; a repeated request joins the one in flight.
    #[tracing::instrument(skip_all, fields(pod = request.name, namespace = request.namespace))]
    pub async fn run_pod(&self, request: PodRequest) -> Result<SandboxId> {
        let key = request.key();
        let taken = key.clone();
        let core = Arc::clone(&self.core);
        let making = in_span(pod::run(core, request));
        let conflict = |id| Error::PodExists { key: taken, id };
        self.core.pod_names.claim(&key, making, conflict).await
    }

    /// Makes a container in a pod that is ready; a repeated request joins the one in flight.
    #[tracing::instrument(skip_all, fields(pod, container = request.name))]
    pub async fn create_container(
        &self,
        pod: &str,
        request: ContainerRequest,
    ) -> Result<ContainerId> {
        let pod = self.core.pod(pod)?;
        self.core.pod_names.is_known(&pod.view().request.key());
        if request.name.is_empty() {
            return Err(Error::invalid("metadata.name", "a container needs a name"));
        }
        let key = name_key(pod.id().as_str(), &request.name, request.attempt);
        let taken = key.clone();
        let making = in_span(container::create(Arc::clone(&self.core), pod, request));
        let conflict = |id| Error::ContainerExists { key: taken, id };
        self.core
            .container_names
            .claim(&key, making, conflict)
            .await
    }

    pub fn cgroup_driver(&self) -> CgroupDriver {
        self.core.config.cgroup_driver
    }

    /// A static program that runs another one as process 1.
    pub fn init_program(&self) -> &std::path::Path {
        &self.core.config.pod_init
    }

    pub fn handlers(&self) -> &Handlers {
        &self.core.config.handlers
    }

    /// The pod with this id, or the only one whose id starts so.
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        self.core.pod(id)
    }

    /// The container with this id, or the only one whose id starts so.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.core.container(id)
    }

    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.core.pods.all()
    }

    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.core.containers.all()
    }

    pub fn containers_of(&self, pod: &SandboxId) -> Vec<Arc<Container>> {
        self.core.containers_of(pod)
    }

    /// Stopping what is not there succeeds: kubelets repeat themselves.
    #[tracing::instrument(skip(self))]
    pub async fn stop_pod(&self, id: &str) -> Result<()> {
        match self.core.pod(id) {
            Ok(pod) => pod.stop().await,
            Err(Error::PodNotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    #[tracing::instrument(skip(self))]
    pub async fn remove_pod(&self, id: &str) -> Result<()> {
        match self.core.pod(id) {
            Ok(pod) => pod.remove().await,
            Err(Error::PodNotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    #[tracing::instrument(skip(self))]
    pub async fn start_container(&self, id: &str) -> Result<()> {
        self.core.container(id)?.start().await
    }

    #[tracing::instrument(skip(self))]
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        match self.core.container(id) {
            Ok(container) => container.stop(grace).await,
            Err(Error::ContainerNotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    #[tracing::instrument(skip(self))]
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        match self.core.container(id) {
            Ok(container) => container.remove().await,
            Err(Error::ContainerNotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What happens to pods and containers from now on.
    pub fn events(&self) -> Subscription {
        self.core.events.subscribe()
    }

    /// Ends all subscriptions, so that nobody waits for them when the daemon ends.
    pub fn close_events(&self) {
        self.core.events.close();
    }

    /// Whether anything can be limited; an ordinary user's daemon may have no cgroups.
    pub fn has_cgroups(&self) -> bool {
        self.core.cgroups.layout() != berth_cgroups::Layout::Absent
    }

    /// A time to go with what is looked at next, comparable with those of events.
    pub fn stamp(&self) -> Nanos {
        self.core.events.stamp()
    }

    pub fn image_in_use(&self, id: &berth_names::Digest) -> bool {
        let containers = self.core.containers.all();
        self.core.layers.stands_on(id)
            || containers.iter().any(|container| container.view().uses(id))
    }
}

/// Keeps the caller's trace over the operation's own task.
fn in_span<T>(work: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send {
    use tracing::Instrument;
    work.instrument(tracing::Span::current())
}
