//! The limits that are in force, read back from the kernel.

use crate::cgroup::{Cgroup, Home};
use crate::control::ControlDir;
use crate::error::Result;
use crate::layout::Controller;

/// Limits of one cgroup; a controller that it has not is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu: Option<CpuLimits>,
    pub memory: Option<MemoryLimits>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuLimits {
    /// In the units of v1; a v2 weight is translated along a straight line.
    pub shares: u64,
    /// Microseconds.
    pub period: u64,
    /// Microseconds of each period; `None` for no limit.
    pub quota: Option<u64>,
}

/// Bytes; `None` for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    pub limit: Option<u64>,
    /// On v1 memory and swap together, on v2 swap alone, as each kernel counts.
    pub swap: Option<u64>,
    /// What reclaim spares: the soft limit of v1, `memory.min` of v2.
    pub reservation: Option<u64>,
}

impl Cgroup {
    /// The limits of this cgroup alone; those of its parents may be tighter.
    pub fn limits(&self) -> Result<Limits> {
        let cpu = match self.home(Controller::Cpu) {
            Some(Home::V1(directory)) => Some(cpu_v1(directory)?),
            Some(Home::V2(directory)) => Some(cpu_v2(directory)?),
            None => None,
        };
        let memory = match self.home(Controller::Memory) {
            Some(Home::V1(directory)) => Some(memory(
                directory,
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                "memory.soft_limit_in_bytes",
            )?),
            Some(Home::V2(directory)) => Some(memory(
                directory,
                "memory.max",
                "memory.swap.max",
                "memory.min",
            )?),
            None => None,
        };
        Ok(Limits { cpu, memory })
    }
}

fn cpu_v1(directory: &ControlDir) -> Result<CpuLimits> {
    let number = |file| Ok(directory.read_number_optional(file)?.unwrap_or(0));
    // -1 is no limit, and no number that could be one.
    let quota = directory.read_optional("cpu.cfs_quota_us")?;
    Ok(CpuLimits {
        shares: number("cpu.shares")?,
        period: number("cpu.cfs_period_us")?,
        quota: quota.and_then(|text| text.trim().parse().ok()),
    })
}

fn cpu_v2(directory: &ControlDir) -> Result<CpuLimits> {
    const MAX: &str = "cpu.max";
    let weight = directory.read_number_optional("cpu.weight")?;
    let mut limits = CpuLimits {
        shares: weight.map_or(0, shares),
        ..CpuLimits::default()
    };
    // The root of a tree has no such file.
    if let Some(content) = directory.read_optional(MAX)? {
        let parsed = content.split_once(' ').and_then(|(quota, period)| {
            let period = period.trim().parse().ok()?;
            match quota {
                "max" => Some((None, period)),
                quota => Some((Some(quota.parse().ok()?), period)),
            }
        });
        let Some((quota, period)) = parsed else {
            return Err(directory.malformed(MAX, &content));
        };
        (limits.quota, limits.period) = (quota, period);
    }
    Ok(limits)
}

/// Weights of 1 to 10000 as shares of 2 to 262144, the way that monitoring has always shown them.
fn shares(weight: u64) -> u64 {
    2 + weight.clamp(1, 10_000).saturating_sub(1) * 262_142 / 9_999
}

fn memory(
    directory: &ControlDir,
    limit: &str,
    swap: &str,
    reservation: &str,
) -> Result<MemoryLimits> {
    let number = |file| Ok(super::limit(directory.read_number_optional(file)?));
    Ok(MemoryLimits {
        limit: number(limit)?,
        swap: number(swap)?,
        reservation: number(reservation)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::fake::FakeTree;

    #[test]
    fn limits_are_read_back_on_both_sides() {
        let v1 = FakeTree::v1(&["cpu,cpuacct", "memory"]);
        let on_v1 = v1.cgroup("/a");
        for (file, content) in [
            ("cpu.shares", "262144\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.cfs_quota_us", "50000\n"),
        ] {
            v1.put("cpu,cpuacct/a", file, content);
        }
        for (file, content) in [
            ("memory.limit_in_bytes", "4096\n"),
            ("memory.memsw.limit_in_bytes", "8192\n"),
            ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
        ] {
            v1.put("memory/a", file, content);
        }
        let v2 = FakeTree::v2("cpu memory");
        let on_v2 = v2.cgroup("/a");
        for (file, content) in [
            ("cpu.weight", "10000\n"),
            ("cpu.max", "50000 100000\n"),
            ("memory.max", "4096\n"),
            ("memory.swap.max", "8192\n"),
            ("memory.min", "max\n"),
        ] {
            v2.put("a", file, content);
        }
        let expected = Limits {
            cpu: Some(CpuLimits {
                shares: 262_144,
                period: 100_000,
                quota: Some(50_000),
            }),
            memory: Some(MemoryLimits {
                limit: Some(4096),
                swap: Some(8192),
                reservation: None,
            }),
        };
        assert_eq!(on_v1.limits().unwrap(), expected);
        assert_eq!(on_v2.limits().unwrap(), expected);
        v1.put("cpu,cpuacct/a", "cpu.cfs_quota_us", "-1\n");
        v2.put("a", "cpu.max", "max 100000\n");
        for cgroup in [&on_v1, &on_v2] {
            let cpu = cgroup.limits().unwrap().cpu.unwrap();
            assert_eq!((cpu.quota, cpu.period), (None, 100_000));
        }
        v2.put("a", "cpu.max", "much\n");
        assert!(matches!(on_v2.limits(), Err(Error::Malformed { .. })));
    }

    #[test]
    fn a_hybrid_host_is_read_where_each_controller_is() {
        let tree = FakeTree::v1(&["memory"]).and_unified("cpu");
        let cgroup = tree.cgroup("/a");
        tree.put("memory/a", "memory.limit_in_bytes", "7\n");
        tree.put("unified/a", "cpu.weight", "100\n");
        let limits = cgroup.limits().unwrap();
        assert_eq!(limits.memory.unwrap().limit, Some(7));
        assert_eq!(limits.cpu.unwrap().shares, 2 + 99 * 262_142 / 9_999);
    }

    #[test]
    fn controllers_that_are_not_there_have_no_limits() {
        let tree = FakeTree::v1(&["pids"]);
        assert_eq!(tree.cgroup("/a").limits().unwrap(), Limits::default());
    }
}
