//! What containers and pods use, sampled when asked: one pass of blocking reads, which asks no
//! task and holds no lock over a read.

mod details;
mod filesystem;
mod gauge;
mod processes;
mod writable;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_cgroups::{Cgroup, CgroupPath, CgroupStats};
use berth_network::InterfaceStats;
use berth_snapshots::Usage;

pub use details::Details;
pub use filesystem::{Filesystem, filesystem};
pub(crate) use gauge::Gauge;
pub use processes::{Processes, TaskStates};
pub(crate) use writable::COUNTS_AT_ONCE;

use crate::container::Container;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::pod::Pod;
use crate::record::{self, ContainerRecord, ContainerState, Nanos, PodRecord, PodState};
use crate::request::Scope;
use crate::runtime::Runtime;
use crate::undo::blocking;

/// How long one call waits for writable layers that take long to count, all of them together.
const PATIENCE: Duration = Duration::from_millis(20);

/// One container at one moment.
#[derive(Debug, Clone)]
pub struct ContainerSample {
    pub record: Arc<ContainerRecord>,
    /// Later than that of any sample before it.
    pub at: Nanos,
    /// `None` unless the container runs: before and after there is no cgroup.
    pub cgroup: Option<CgroupStats>,
    /// CPU nanoseconds per second since an earlier sample, or since the start.
    pub nano_cores: Option<u64>,
    /// `None` while it is counted for the first time and that takes long.
    pub writable: Option<Usage>,
    /// Only where metrics were asked for.
    pub details: Option<Box<Details>>,
}

/// One pod at one moment.
#[derive(Debug, Clone)]
pub struct PodSample {
    pub record: Arc<PodRecord>,
    /// Later than that of any sample before it.
    pub at: Nanos,
    /// What the pod's own cgroup accounts, with everything below it. `None` where it has none, or
    /// shares it with other pods.
    pub cgroup: Option<CgroupStats>,
    /// Only where metrics were asked for and the pod has a cgroup of its own.
    pub details: Option<Box<Details>>,
    pub nano_cores: u64,
    pub processes: u64,
    pub containers: Vec<ContainerSample>,
    /// The pod's interfaces; empty on the host's network.
    pub interfaces: Vec<InterfaceStats>,
}

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What the statistics RPCs show.
    Statistics,
    /// Also what only metrics show, which takes a look at every thread and descriptor.
    Metrics,
}

impl Runtime {
    pub async fn container_stats(&self, container: &Arc<Container>) -> Result<ContainerSample> {
        let (core, container) = (Arc::clone(&self.core), Arc::clone(container));
        blocking("sample", move || {
            Pass::new(&core, Depth::Statistics).container(&container)
        })
        .await
    }

    /// Samples many containers in one blocking pass; those that vanish meanwhile are left out.
    pub async fn containers_stats(
        &self,
        containers: Vec<Arc<Container>>,
    ) -> Result<Vec<ContainerSample>> {
        let core = Arc::clone(&self.core);
        blocking("sample", move || {
            let pass = Pass::new(&core, Depth::Statistics);
            let samples = containers.iter().map(|container| pass.container(container));
            Ok(samples.filter_map(Result::ok).collect())
        })
        .await
    }

    pub async fn pod_stats(&self, pod: &Arc<Pod>) -> Result<PodSample> {
        let mut samples = self
            .pods_stats(vec![Arc::clone(pod)], Depth::Statistics)
            .await?;
        samples
            .pop()
            .ok_or_else(|| Error::PodNotFound(pod.id().to_string()))
    }

    /// Samples many pods with their containers in one blocking pass.
    pub async fn pods_stats(&self, pods: Vec<Arc<Pod>>, depth: Depth) -> Result<Vec<PodSample>> {
        let core = Arc::clone(&self.core);
        blocking("sample", move || Ok(Pass::new(&core, depth).pods(&pods))).await
    }

    /// What all writable layers take together.
    pub async fn writable_usage(&self) -> Result<Usage> {
        let core = Arc::clone(&self.core);
        blocking("sample", move || {
            let patient_until = Instant::now() + PATIENCE;
            let mut total = Usage::default();
            for container in core.containers.all() {
                if let Some(usage) = writable::usage(&core, &container, patient_until) {
                    total.bytes += usage.bytes;
                    total.inodes += usage.inodes;
                }
            }
            Ok(total)
        })
        .await
    }
}

/// One pass over what was asked for.
struct Pass<'a> {
    core: &'a Arc<Core>,
    depth: Depth,
    patient_until: Instant,
}

impl<'a> Pass<'a> {
    fn new(core: &'a Arc<Core>, depth: Depth) -> Self {
        Self {
            core,
            depth,
            patient_until: Instant::now() + PATIENCE,
        }
    }

    fn container(&self, container: &Arc<Container>) -> Result<ContainerSample> {
        let record = container.view();
        let mut sample = ContainerSample {
            at: container.gauge.instant(),
            cgroup: None,
            nano_cores: None,
            writable: writable::usage(self.core, container, self.patient_until),
            details: None,
            record: Arc::clone(&record),
        };
        if record.state != ContainerState::Running {
            return Ok(sample);
        }
        let read = self.open(&record.cgroup).and_then(|cgroup| {
            let stats = cgroup.stats()?;
            let details = self.details(&cgroup, record.pid, &container.gauge)?;
            Ok((stats, details))
        });
        match read {
            Ok((stats, details)) => {
                let usage = stats.cpu.usage_ns;
                sample.nano_cores = container.gauge.rate(sample.at, usage, record.started_at);
                (sample.cgroup, sample.details) = (Some(stats), details);
                Ok(sample)
            }
            // It ended between the look at its record and this one.
            Err(error) if error.is_not_found() => Ok(sample),
            Err(source) => Err(Error::Cgroup {
                path: record.cgroup.clone(),
                source,
            }),
        }
    }

    fn pods(&self, pods: &[Arc<Pod>]) -> Vec<PodSample> {
        let mut containers: HashMap<_, Vec<_>> = HashMap::new();
        for container in self.core.containers.all() {
            let pod = container.view().pod.clone();
            containers.entry(pod).or_default().push(container);
        }
        let mut sharers: HashMap<String, usize> = HashMap::new();
        for pod in self.core.pods.all() {
            *sharers.entry(pod.view().cgroup_parent.clone()).or_default() += 1;
        }
        let mut interfaces = self.interfaces(pods).into_iter();
        let samples = pods.iter().map(|pod| {
            let own = containers.get(pod.id()).map_or(&[][..], Vec::as_slice);
            let parent = &pod.view().cgroup_parent;
            let alone = *parent != self.core.config.cgroup_parent
                && sharers.get(parent).is_none_or(|pods| *pods == 1);
            self.pod(pod, alone, own, interfaces.next().unwrap_or_default())
        });
        samples.collect()
    }

    fn pod(
        &self,
        pod: &Arc<Pod>,
        alone: bool,
        containers: &[Arc<Container>],
        interfaces: Vec<InterfaceStats>,
    ) -> PodSample {
        let record = pod.view();
        let at = pod.gauge.instant();
        let containers: Vec<ContainerSample> = containers
            .iter()
            .filter_map(|container| self.container(container).ok())
            .collect();
        let own = (alone && record.state == PodState::Ready)
            .then(|| self.open(&record.cgroup_parent).ok())
            .flatten();
        let cgroup = own.as_ref().and_then(|cgroup| cgroup.stats().ok());
        let nano_cores = match &cgroup {
            Some(stats) => pod
                .gauge
                .rate(at, stats.cpu.usage_ns, record.created_at)
                .unwrap_or(0),
            None => containers.iter().filter_map(|c| c.nano_cores).sum(),
        };
        let count = |cgroup: &Cgroup| cgroup.pids().map_or(0, |pids| pids.len() as u64);
        let processes = match &own {
            Some(cgroup) => count(cgroup),
            None => containers
                .iter()
                .filter(|container| container.cgroup.is_some())
                .filter_map(|container| self.open(&container.record.cgroup).ok())
                .map(|cgroup| count(&cgroup))
                .sum(),
        };
        let details = own
            .as_ref()
            .and_then(|cgroup| self.details(cgroup, None, &pod.gauge).ok().flatten());
        PodSample {
            record,
            at,
            cgroup,
            details,
            nano_cores,
            processes,
            containers,
            interfaces,
        }
    }

    fn open(&self, path: &str) -> Result<Cgroup, berth_cgroups::Error> {
        self.core.cgroups.open(&CgroupPath::parse(path)?)
    }

    /// `pid` is the container's first process; a pod has none and is not looked into.
    fn details(
        &self,
        cgroup: &Cgroup,
        pid: Option<u32>,
        gauge: &Gauge,
    ) -> Result<Option<Box<Details>>, berth_cgroups::Error> {
        match self.depth {
            Depth::Statistics => Ok(None),
            Depth::Metrics => details::read(cgroup, pid, gauge).map(|read| Some(Box::new(read))),
        }
    }

    /// The interfaces of each pod, in order; one thread visits all their namespaces.
    fn interfaces(&self, pods: &[Arc<Pod>]) -> Vec<Vec<InterfaceStats>> {
        let mut namespaces = Vec::new();
        let places: Vec<Option<usize>> = pods
            .iter()
            .map(|pod| {
                let record = pod.view();
                let netns = self.core.pod_files(&record.id).netns();
                let has_own = record.request.namespaces.network != Scope::Node
                    && record.state == PodState::Ready
                    && netns.exists();
                has_own.then(|| {
                    namespaces.push(netns);
                    namespaces.len() - 1
                })
            })
            .collect();
        if namespaces.is_empty() {
            return vec![Vec::new(); pods.len()];
        }
        let read = berth_network::stats(namespaces).unwrap_or_else(|error| {
            tracing::warn!(error = crate::error::chain(&error), "traffic not counted");
            Vec::new()
        });
        let mut read: Vec<_> = read.into_iter().map(Result::unwrap_or_default).collect();
        places
            .into_iter()
            .map(|place| place.and_then(|at| read.get_mut(at)).map(std::mem::take))
            .map(Option::unwrap_or_default)
            .collect()
    }
}

/// Containers and pods by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    pub pods_ready: u64,
    pub pods_not_ready: u64,
    pub created: u64,
    pub running: u64,
    pub exited: u64,
    /// Processes that accompany containers and inits of pods.
    pub shims: u64,
}

impl Runtime {
    /// How many there are, from memory.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for pod in self.core.pods.all() {
            let record = pod.view();
            match record.state {
                PodState::Ready => census.pods_ready += 1,
                PodState::Creating | PodState::NotReady => census.pods_not_ready += 1,
            }
            census.shims += u64::from(record.init_pid.is_some());
        }
        for container in self.core.containers.all() {
            match container.view().state {
                ContainerState::Creating | ContainerState::Created => census.created += 1,
                ContainerState::Running => census.running += 1,
                ContainerState::Exited => census.exited += 1,
            }
            census.shims += u64::from(container.has_shim());
        }
        census
    }
}

/// The present time, for samples.
fn wall_clock() -> Nanos {
    record::now()
}
