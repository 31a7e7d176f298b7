//! What containers and pods use, sampled when asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use berth_cgroups::{CgroupPath, CgroupStats};
use berth_network::InterfaceStats;
use berth_snapshots::Usage;
use parking_lot::Mutex;

use crate::container::Container;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::pod::Pod;
use crate::record::{self, ContainerRecord, ContainerState, Nanos, PodRecord};
use crate::request::Scope;
use crate::runtime::Runtime;
use crate::undo::blocking;

/// One container at one moment.
#[derive(Debug, Clone)]
pub struct ContainerSample {
    pub record: Arc<ContainerRecord>,
    pub at: Nanos,
    /// `None` once the container has ended: its cgroup is gone.
    pub cgroup: Option<CgroupStats>,
    /// CPU nanoseconds per second since the previous sample; `None` for the first one.
    pub nano_cores: Option<u64>,
    pub writable: Option<Usage>,
}

/// One pod at one moment.
#[derive(Debug, Clone)]
pub struct PodSample {
    pub record: Arc<PodRecord>,
    pub at: Nanos,
    pub containers: Vec<ContainerSample>,
    /// The pod's interfaces; empty on the host's network.
    pub interfaces: Vec<InterfaceStats>,
}

/// The last CPU reading per container, from which rates are formed.
static READINGS: LazyLock<Mutex<HashMap<String, (Nanos, u64)>>> = LazyLock::new(Mutex::default);

impl Runtime {
    pub async fn container_stats(&self, container: &Container) -> Result<ContainerSample> {
        let core = Arc::clone(&self.core);
        let record = container.view();
        blocking("sample", move || sample(&core, record)).await
    }

    /// Samples many containers in one blocking pass; those that vanish meanwhile are left out.
    pub async fn containers_stats(
        &self,
        containers: Vec<Arc<Container>>,
    ) -> Result<Vec<ContainerSample>> {
        let core = Arc::clone(&self.core);
        blocking("sample", move || {
            let present: std::collections::HashSet<String> = core
                .containers
                .all()
                .iter()
                .map(|c| c.id().to_string())
                .collect();
            READINGS.lock().retain(|id, _| present.contains(id));
            let samples = containers
                .iter()
                .map(|container| sample(&core, container.view()));
            Ok(samples.filter_map(Result::ok).collect())
        })
        .await
    }

    pub async fn pod_stats(&self, pod: &Pod) -> Result<PodSample> {
        let record = pod.view();
        let containers = self.containers_stats(self.containers_of(pod.id())).await?;
        let interfaces = self.interfaces(&record).await;
        Ok(PodSample {
            record,
            at: record::now(),
            containers,
            interfaces,
        })
    }

    /// What all writable layers take together.
    pub async fn writable_usage(&self) -> Result<Usage> {
        let core = Arc::clone(&self.core);
        blocking("sample", move || {
            let mut total = Usage::default();
            for container in core.containers.all() {
                if let Ok(usage) = core.snapshots.usage(container.id().as_str()) {
                    total.bytes += usage.bytes;
                    total.inodes += usage.inodes;
                }
            }
            Ok(total)
        })
        .await
    }

    async fn interfaces(&self, record: &PodRecord) -> Vec<InterfaceStats> {
        let files = self.core.pod_files(&record.id);
        if record.request.namespaces.network == Scope::Node || !files.netns().exists() {
            return Vec::new();
        }
        let netns = files.netns();
        let read = blocking("count the traffic of", move || {
            let mut all = berth_network::stats(vec![netns]).unwrap_or_default();
            Ok(all.pop().and_then(Result::ok).unwrap_or_default())
        });
        read.await.unwrap_or_default()
    }
}

fn sample(core: &Core, record: Arc<ContainerRecord>) -> Result<ContainerSample> {
    let at = record::now();
    let running = record.state == ContainerState::Running;
    let cgroup = if running { read(core, &record)? } else { None };
    let nano_cores = cgroup
        .as_ref()
        .and_then(|stats| rate(record.id.as_str(), at, stats.cpu.usage_ns));
    let writable = core.snapshots.usage(record.id.as_str()).ok();
    Ok(ContainerSample {
        record,
        at,
        cgroup,
        nano_cores,
        writable,
    })
}

fn read(core: &Core, record: &ContainerRecord) -> Result<Option<CgroupStats>> {
    let failed = |source| Error::Cgroup {
        path: record.cgroup.clone(),
        source,
    };
    let stats = CgroupPath::parse(&record.cgroup)
        .and_then(|path| core.cgroups.open(&path))
        .and_then(|cgroup| cgroup.stats());
    match stats {
        Ok(stats) => Ok(Some(stats)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Nanoseconds of CPU per second since the last reading. Readings closer together than this keep
/// the older one, so that two callers do not blind each other.
fn rate(id: &str, at: Nanos, usage: u64) -> Option<u64> {
    const CLOSEST: Duration = Duration::from_millis(100);
    let mut readings = READINGS.lock();
    let previous = readings.get(id).copied();
    let elapsed = |then: Nanos| u64::try_from(at.saturating_sub(then)).unwrap_or(0);
    match previous {
        Some((then, _)) if elapsed(then) < CLOSEST.as_nanos() as u64 => {}
        _ => {
            readings.insert(id.to_owned(), (at, usage));
        }
    }
    let (then, used) = previous?;
    let elapsed = elapsed(then).max(1);
    let spent = u128::from(usage.saturating_sub(used));
    u64::try_from(spent * 1_000_000_000 / u128::from(elapsed)).ok()
}
