//! Limits, in the ranges that the kernel takes.

use std::fmt::Display;
use std::ops::RangeInclusive;

use berth_api::cri::v1::LinuxContainerResources;
use berth_lifecycle::request::Resources;
use tonic::Status;

use super::{Result, sorted};
use crate::status::invalid;

/// Limits: the contract's zero means "not set".
pub fn resources(limits: LinuxContainerResources) -> Result<Resources> {
    let memory = i64::MAX.unsigned_abs();
    let score = i32::try_from(limits.oom_score_adj)
        .ok()
        .filter(|score| (-1000..=1000).contains(score))
        .ok_or_else(|| outside("oom_score_adj", limits.oom_score_adj, -1000, 1000))?;
    Ok(Resources {
        // The kernel's bounds: kernel/sched/core.c, tg_set_cfs_bandwidth.
        cpu_period: positive("cpu_period", limits.cpu_period, 1000..=1_000_000)?,
        cpu_quota: limit("cpu_quota", limits.cpu_quota, 1000..=memory)?,
        cpu_shares: positive("cpu_shares", limits.cpu_shares, 2..=262_144)?,
        memory_limit: limit(
            "memory_limit_in_bytes",
            limits.memory_limit_in_bytes,
            1..=memory,
        )?,
        memory_swap_limit: limit(
            "memory_swap_limit_in_bytes",
            limits.memory_swap_limit_in_bytes,
            1..=memory,
        )?,
        oom_score_adj: Some(score),
        cpuset_cpus: limits.cpuset_cpus,
        cpuset_mems: limits.cpuset_mems,
        hugepage_limits: limits
            .hugepage_limits
            .into_iter()
            .map(|limit| (limit.page_size, limit.limit))
            .collect(),
        pids_limit: None,
        unified: sorted(limits.unified),
    })
}

fn positive(field: &str, value: i64, range: RangeInclusive<u64>) -> Result<Option<u64>> {
    match u64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) if range.contains(&value) => Ok(Some(value)),
        _ => Err(outside(field, value, *range.start(), *range.end())),
    }
}

/// A limit that -1 lifts.
fn limit(field: &str, value: i64, range: RangeInclusive<u64>) -> Result<Option<i64>> {
    match value {
        0 => Ok(None),
        -1 => Ok(Some(-1)),
        value if u64::try_from(value).is_ok_and(|value| range.contains(&value)) => Ok(Some(value)),
        value => Err(invalid(format!(
            "{field} is {value}: it is at least {}, or -1 for no limit",
            range.start()
        ))),
    }
}

fn outside(field: &str, value: i64, least: impl Display, most: impl Display) -> Status {
    invalid(format!("{field} is {value}: it lies in {least}..={most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_outside_of_what_a_kernel_takes_are_refused_by_name() {
        let refused = |field: &str, limits: LinuxContainerResources| {
            let error = resources(limits).unwrap_err();
            assert!(error.message().starts_with(field), "{}", error.message());
        };
        for value in [-1, 1, 262_145] {
            let limits = LinuxContainerResources {
                cpu_shares: value,
                ..Default::default()
            };
            refused("cpu_shares", limits);
        }
        for value in [-2, i64::MIN, 999] {
            let limits = LinuxContainerResources {
                cpu_quota: value,
                ..Default::default()
            };
            refused("cpu_quota", limits);
        }
        for value in [-2, i64::MIN] {
            let limits = LinuxContainerResources {
                memory_limit_in_bytes: value,
                ..Default::default()
            };
            refused("memory_limit_in_bytes", limits);
        }
        for value in [-1001, 1001, i64::MAX] {
            let limits = LinuxContainerResources {
                oom_score_adj: value,
                ..Default::default()
            };
            refused("oom_score_adj", limits);
        }
        let lifted = LinuxContainerResources {
            cpu_quota: -1,
            memory_limit_in_bytes: -1,
            ..Default::default()
        };
        let lifted = resources(lifted).unwrap();
        assert_eq!(
            (lifted.cpu_quota, lifted.memory_limit),
            (Some(-1), Some(-1))
        );
    }
}
