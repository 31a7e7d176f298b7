//! Memory from `memory.stat` and its neighbours.

use super::{MemoryStats, each_value, limit};
use crate::cgroup::{Cgroup, Home};
use crate::control::{ControlDir, flat_value};
use crate::error::Result;
use crate::layout::Controller;

const STAT: &str = "memory.stat";

pub(super) fn collect(cgroup: &Cgroup) -> Result<MemoryStats> {
    let mut stats = match cgroup.home(Controller::Memory) {
        Some(Home::V1(directory)) => v1(directory)?,
        Some(Home::V2(directory)) => v2(directory)?,
        None => return Ok(MemoryStats::default()),
    };
    stats.working_set = stats.usage.saturating_sub(stats.inactive_file);
    stats.available = stats
        .limit
        .map(|limit| limit.saturating_sub(stats.working_set));
    Ok(stats)
}

fn v1(directory: &ControlDir) -> Result<MemoryStats> {
    let number = |file| directory.read_number_optional(file);
    let mut stats = MemoryStats {
        usage: number("memory.usage_in_bytes")?.unwrap_or(0),
        limit: limit(number("memory.limit_in_bytes")?),
        ..MemoryStats::default()
    };
    let both = limit(number("memory.memsw.limit_in_bytes")?);
    stats.swap_limit = match (both, stats.limit) {
        (Some(both), Some(memory)) => Some(both.saturating_sub(memory)),
        _ => None,
    };
    let Some(content) = directory.read_optional(STAT)? else {
        return Ok(stats);
    };
    // The keys without `total_` leave descendants out.
    each_value(directory, STAT, &content, |key, value| match key {
        "total_rss" => stats.rss = value,
        "total_cache" => stats.cache = value,
        "total_mapped_file" => stats.mapped_file = value,
        "total_active_file" => stats.active_file = value,
        "total_inactive_file" => stats.inactive_file = value,
        "total_pgfault" => stats.page_faults = value,
        "total_pgmajfault" => stats.major_page_faults = value,
        "pgfault" => stats.own_page_faults = value,
        "pgmajfault" => stats.own_major_page_faults = value,
        "total_swap" => stats.swap = value,
        _ => {}
    })?;
    Ok(stats)
}

fn v2(directory: &ControlDir) -> Result<MemoryStats> {
    let number = |file| directory.read_number_optional(file);
    let mut stats = MemoryStats {
        usage: number("memory.current")?.unwrap_or(0),
        limit: limit(number("memory.max")?),
        swap: number("memory.swap.current")?.unwrap_or(0),
        swap_limit: limit(number("memory.swap.max")?),
        ..MemoryStats::default()
    };
    let Some(content) = directory.read_optional(STAT)? else {
        return Ok(stats);
    };
    each_value(directory, STAT, &content, |key, value| match key {
        "anon" => stats.rss = value,
        "file" => stats.cache = value,
        "file_mapped" => stats.mapped_file = value,
        "active_file" => stats.active_file = value,
        "inactive_file" => stats.inactive_file = value,
        "pgfault" => stats.page_faults = value,
        "pgmajfault" => stats.major_page_faults = value,
        _ => {}
    })?;
    stats.own_page_faults = stats.page_faults;
    stats.own_major_page_faults = stats.major_page_faults;
    Ok(stats)
}

/// What metrics want beyond a sample, from files of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryDetails {
    /// Bytes; the highest usage so far. 0 on v2 before Linux 5.19.
    pub peak: u64,
    /// Bytes charged for the kernel's own objects.
    pub kernel: u64,
    /// How often a limit (on v1 that of memory and swap together, too)
    /// refused a charge. Some kernels (6.18 on v1) leave it at 0.
    pub limit_hits: u64,
}

impl Cgroup {
    /// The less usual numbers about memory.
    pub fn memory_details(&self) -> Result<MemoryDetails> {
        match self.home(Controller::Memory) {
            Some(Home::V1(directory)) => {
                let number = |file| Ok(directory.read_number_optional(file)?.unwrap_or(0));
                Ok(MemoryDetails {
                    peak: number("memory.max_usage_in_bytes")?,
                    kernel: number("memory.kmem.usage_in_bytes")?,
                    // A charge is tried against the sum first and is counted
                    // once, by the limit that refused it.
                    limit_hits: number("memory.memsw.failcnt")? + number("memory.failcnt")?,
                })
            }
            Some(Home::V2(directory)) => {
                let value = |file, key| -> Result<u64> {
                    let content = directory.read_optional(file)?.unwrap_or_default();
                    Ok(flat_value(&content, key).unwrap_or(0))
                };
                Ok(MemoryDetails {
                    peak: directory.read_number_optional("memory.peak")?.unwrap_or(0),
                    kernel: value(STAT, "kernel")?,
                    limit_hits: value("memory.events", "max")?,
                })
            }
            None => Ok(MemoryDetails::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;

    const STAT_V1: &str = "cache 1\nrss 1\npgfault 11\npgmajfault 2\ninactive_file 1\nhierarchical_memory_limit 5\n\
        total_cache 400\ntotal_rss 300\ntotal_mapped_file 50\ntotal_inactive_file 200\n\
        total_active_file 150\ntotal_pgfault 11\ntotal_pgmajfault 2\ntotal_swap 64\n";
    const STAT_V2: &str = "anon 300\nfile 400\nkernel 70\nfile_mapped 50\ninactive_file 200\n\
        active_file 150\npgfault 11\npgmajfault 2\n";

    const EXPECTED: MemoryStats = MemoryStats {
        usage: 1000,
        working_set: 800,
        rss: 300,
        cache: 400,
        mapped_file: 50,
        active_file: 150,
        inactive_file: 200,
        limit: Some(4096),
        available: Some(3296),
        page_faults: 11,
        major_page_faults: 2,
        own_page_faults: 11,
        own_major_page_faults: 2,
        swap: 64,
        swap_limit: Some(1024),
    };

    #[test]
    fn v1_and_v2_mean_the_same() {
        let v1 = FakeTree::v1(&["memory"]);
        let on_v1 = v1.cgroup("/a");
        for (file, content) in [
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.limit_in_bytes", "4096\n"),
            ("memory.memsw.limit_in_bytes", "5120\n"),
            ("memory.stat", STAT_V1),
            ("memory.max_usage_in_bytes", "2000\n"),
            ("memory.kmem.usage_in_bytes", "70\n"),
            ("memory.failcnt", "4\n"),
            ("memory.memsw.failcnt", "2\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            ),
        ] {
            v1.put("memory/a", file, content);
        }
        let v2 = FakeTree::v2("memory");
        let on_v2 = v2.cgroup("/a");
        for (file, content) in [
            ("memory.current", "1000\n"),
            ("memory.max", "4096\n"),
            ("memory.swap.current", "64\n"),
            ("memory.swap.max", "1024\n"),
            ("memory.stat", STAT_V2),
            ("memory.peak", "2000\n"),
            (
                "memory.events",
                "low 0\nhigh 0\nmax 6\noom 9\noom_kill 3\noom_group_kill 0\n",
            ),
        ] {
            v2.put("a", file, content);
        }
        for cgroup in [on_v1, on_v2] {
            assert_eq!(cgroup.stats().unwrap().memory, EXPECTED);
            assert_eq!(cgroup.oom_kills().unwrap(), 3);
            let details = cgroup.memory_details().unwrap();
            assert_eq!(
                (details.peak, details.kernel, details.limit_hits),
                (2000, 70, 6)
            );
        }
    }

    #[test]
    fn no_limit_reads_as_none() {
        let v1 = FakeTree::v1(&["memory"]);
        let cgroup = v1.cgroup("/a");
        v1.put("memory/a", "memory.limit_in_bytes", "9223372036854771712\n");
        v1.put(
            "memory/a",
            "memory.memsw.limit_in_bytes",
            "9223372036854771712\n",
        );
        let memory = cgroup.stats().unwrap().memory;
        assert_eq!(
            (memory.limit, memory.available, memory.swap_limit),
            (None, None, None)
        );
        assert_eq!(cgroup.oom_kills().unwrap(), 0);

        let v2 = FakeTree::v2("memory");
        let cgroup = v2.cgroup("/a");
        v2.put("a", "memory.max", "max\n");
        assert_eq!(cgroup.stats().unwrap().memory.limit, None);
    }
}
