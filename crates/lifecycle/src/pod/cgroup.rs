//! The cgroup of a pod: made, limited and taken away.
//!
//! Whose it is decides what is done to it. One that the client had made (as a kubelet does for each
//! pod, with limits of its own making) is used as it is. One that this runtime makes, because the
//! pod names none or one that is not there, holds the pod to the resources that the client gave for
//! it and to the overhead besides.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_cgroups::CgroupPath;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::record::PodRecord;
use crate::request::{PodRequest, Resources};
use crate::spec::linux_resources;
use crate::undo::blocking;

/// The kernel's default period of CPU quotas, in microseconds.
const PERIOD: u64 = 100_000;

/// Where the containers of a pod with this id go.
pub(super) fn parent(core: &Core, id: &str, request: &PodRequest) -> Result<String> {
    let driver = core.config.cgroup_driver;
    match request.cgroup_parent.as_str() {
        "" => driver.own_parent(&core.config.cgroup_parent, id),
        parent => driver.parent(parent),
    }
}

/// Makes the pod's cgroup where it is missing, and then limits it; true if it was missing. Its undo
/// is [`release`].
pub(super) async fn make(core: &Arc<Core>, record: &PodRecord) -> Result<bool> {
    let worker = Arc::clone(core);
    let path = record.cgroup_parent.clone();
    let own = is_own(&record.request);
    let limits = linux_resources(&limits(&record.request))?;
    blocking("make the cgroup of", move || {
        let cgroup = worker.made_cgroups.make(&path, own)?;
        if cgroup.created() {
            cgroup
                .update(&limits)
                .map_err(|source| Error::Cgroup { path, source })?;
        }
        Ok(cgroup.created())
    })
    .await
}

/// Gives the pod's cgroup the limits that `request` says, where it is this runtime's.
pub(super) async fn limit(
    core: &Arc<Core>,
    record: &PodRecord,
    request: &PodRequest,
) -> Result<()> {
    let limits = linux_resources(&limits(request))?;
    if !record.cgroup_made {
        return Ok(());
    }
    let worker = Arc::clone(core);
    let path = record.cgroup_parent.clone();
    blocking("update the cgroup of", move || {
        let updated = CgroupPath::parse(&path)
            .and_then(|path| worker.cgroups.open(&path))
            .and_then(|cgroup| cgroup.update(&limits));
        updated.map_err(|source| Error::Cgroup { path, source })
    })
    .await
}

/// Takes away what was made for the pod; repeating it is harmless.
pub(super) async fn release(core: Arc<Core>, record: Arc<PodRecord>) -> Result<()> {
    let own = is_own(&record.request);
    blocking("remove the cgroup of", move || {
        core.made_cgroups.release(&record.cgroup_parent, own)
    })
    .await
}

/// Nobody else can be in a cgroup that is named after the pod.
fn is_own(request: &PodRequest) -> bool {
    request.cgroup_parent.is_empty()
}

/// What the pod may use: its containers together, and what running them takes besides. An overhead
/// alone limits nothing.
fn limits(request: &PodRequest) -> Resources {
    let none = Resources::default();
    let resources = request.resources.as_ref().unwrap_or(&none);
    let overhead = request.overhead.as_ref().unwrap_or(&none);
    let more = |bytes: i64| match bytes {
        ..=0 => bytes,
        _ => bytes.saturating_add(overhead.memory_limit.unwrap_or(0).max(0)),
    };
    let mut hugepages: BTreeMap<&str, u64> = BTreeMap::new();
    for (size, bytes) in &resources.hugepage_limits {
        hugepages.insert(size, *bytes);
    }
    for (size, bytes) in &overhead.hugepage_limits {
        if let Some(sum) = hugepages.get_mut(size.as_str()) {
            *sum = sum.saturating_add(*bytes);
        }
    }
    let shares = |shares: u64| shares.saturating_add(overhead.cpu_shares.unwrap_or(0));
    Resources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources
            .cpu_quota
            .map(|quota| quota_with(quota, resources.cpu_period, overhead)),
        cpu_shares: resources.cpu_shares.map(shares),
        memory_limit: resources.memory_limit.map(more),
        memory_swap_limit: resources.memory_swap_limit.map(more),
        oom_score_adj: None,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: hugepages
            .into_iter()
            .map(|(size, bytes)| (size.to_owned(), bytes))
            .collect(),
        pids_limit: resources.pids_limit,
        unified: resources.unified.clone(),
    }
}

/// `quota` and that of the overhead, which may be given for another period.
fn quota_with(quota: i64, period: Option<u64>, overhead: &Resources) -> i64 {
    let Some(extra) = overhead.cpu_quota.filter(|extra| quota > 0 && *extra > 0) else {
        return quota;
    };
    let of = |period: Option<u64>| i128::from(period.unwrap_or(PERIOD).max(1));
    let extra = i128::from(extra) * of(period) / of(overhead.cpu_period);
    i64::try_from(i128::from(quota) + extra).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(resources: Resources, overhead: Resources) -> PodRequest {
        PodRequest {
            resources: Some(resources),
            overhead: Some(overhead),
            ..PodRequest::default()
        }
    }

    #[test]
    fn the_overhead_comes_on_top_of_what_is_limited() {
        let limits = limits(&request(
            Resources {
                cpu_quota: Some(50_000),
                cpu_shares: Some(512),
                memory_limit: Some(1000),
                hugepage_limits: vec![("2MB".into(), 4)],
                ..Resources::default()
            },
            Resources {
                cpu_quota: Some(10_000),
                cpu_period: Some(50_000),
                cpu_shares: Some(100),
                memory_limit: Some(24),
                hugepage_limits: vec![("2MB".into(), 2), ("1GB".into(), 1)],
                ..Resources::default()
            },
        ));
        assert_eq!(limits.cpu_quota, Some(70_000));
        assert_eq!(limits.cpu_shares, Some(612));
        assert_eq!(limits.memory_limit, Some(1024));
        assert_eq!(limits.memory_swap_limit, None);
        assert_eq!(limits.hugepage_limits, [("2MB".to_owned(), 6)]);
    }

    #[test]
    fn an_overhead_alone_and_no_limit_at_all_limit_nothing() {
        let overhead = Resources {
            cpu_quota: Some(10_000),
            memory_limit: Some(24),
            ..Resources::default()
        };
        let nothing = limits(&request(Resources::default(), overhead.clone()));
        assert_eq!(nothing, Resources::default());
        let unlimited = Resources {
            cpu_quota: Some(-1),
            memory_limit: Some(-1),
            memory_swap_limit: Some(-1),
            ..Resources::default()
        };
        assert_eq!(limits(&request(unlimited.clone(), overhead)), unlimited);
    }
}
