//! What the kernel has accounted: one sample of one cgroup.
//!
//! All counters include descendants and grow from the making of the cgroup.
//! A file that this kernel does not have leaves its fields at zero or `None`;
//! a file that holds nonsense is an error.

mod cpu;
mod io;
mod io_tables;
mod limits;
mod memory;
mod pressure;

use crate::cgroup::{Cgroup, Home};
use crate::control::{ControlDir, flat_value};
use crate::error::{Error, Result};
use crate::layout::Controller;

pub use io_tables::{IoCounter, IoTables};
pub use limits::{CpuLimits, Limits, MemoryLimits};
pub use memory::MemoryDetails;

/// One sample. The caller notes the time of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CgroupStats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    /// Per device; devices without traffic may be missing.
    pub io: Vec<BlockIo>,
    /// Pressure stall information, where the cgroup is in a unified tree of a
    /// kernel that has it.
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
}

/// Processor time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Nanoseconds over all processors.
    pub usage_ns: u64,
    /// Nanoseconds in user space.
    pub user_ns: u64,
    /// Nanoseconds in the kernel.
    pub system_ns: u64,
    /// Periods in which a quota was in force.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Nanoseconds that tasks waited for the next period.
    pub throttled_ns: u64,
}

/// Memory in bytes, faults in events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All that is charged, page cache included.
    pub usage: u64,
    /// Usage less the file pages that have not been used lately: what the
    /// kernel cannot take back without harm.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// File pages mapped into processes.
    pub mapped_file: u64,
    pub active_file: u64,
    pub inactive_file: u64,
    /// The limit of this cgroup; `None` for no limit.
    pub limit: Option<u64>,
    /// What is left between working set and limit; `None` without a limit.
    pub available: Option<u64>,
    pub page_faults: u64,
    /// Faults that had to wait for a device.
    pub major_page_faults: u64,
    /// Faults of this cgroup without its descendants; v2 does not tell them apart.
    pub own_page_faults: u64,
    pub own_major_page_faults: u64,
    /// Bytes in swap.
    pub swap: u64,
    /// How much may be in swap, memory not included; `None` for no limit or
    /// without swap accounting.
    pub swap_limit: Option<u64>,
}

/// Tasks: processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    pub current: u64,
    /// `None` for no limit.
    pub limit: Option<u64>,
}

/// Traffic of one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockIo {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub read_operations: u64,
    pub write_operations: u64,
}

/// How much work stalled for want of a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task stalled.
    pub some: PressureLine,
    /// All tasks stalled at once; kernels before 5.13 do not tell for the
    /// processor.
    pub full: PressureLine,
}

/// Shares of time in percent, over sliding windows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureLine {
    /// Over ten seconds.
    pub avg10: f64,
    /// Over one minute.
    pub avg60: f64,
    /// Over five minutes.
    pub avg300: f64,
    /// Microseconds since the cgroup was made.
    pub total_us: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugepageStats {
    /// As in file names: `2MB`.
    pub page_size: String,
    pub usage: u64,
    /// `None` for no limit.
    pub limit: Option<u64>,
    /// The highest usage so far; v2 does not keep it.
    pub peak: Option<u64>,
    /// How often the limit refused pages.
    pub limit_hits: u64,
}

pub(crate) fn collect(cgroup: &Cgroup) -> Result<CgroupStats> {
    let mut stats = CgroupStats {
        cpu: cpu::collect(cgroup)?,
        memory: memory::collect(cgroup)?,
        pids: pids(cgroup)?,
        io: io::collect(cgroup)?,
        ..CgroupStats::default()
    };
    if let Some(unified) = cgroup.unified() {
        stats.cpu_pressure = pressure::read(unified, "cpu.pressure")?;
        stats.memory_pressure = pressure::read(unified, "memory.pressure")?;
        stats.io_pressure = pressure::read(unified, "io.pressure")?;
    }
    Ok(stats)
}

fn pids(cgroup: &Cgroup) -> Result<PidsStats> {
    let Some(Home::V1(directory) | Home::V2(directory)) = cgroup.home(Controller::Pids) else {
        return Ok(PidsStats::default());
    };
    Ok(PidsStats {
        current: directory.read_number_optional("pids.current")?.unwrap_or(0),
        limit: limit(directory.read_number_optional("pids.max")?),
    })
}

impl Cgroup {
    /// Use and limits of huge pages, one entry per page size; empty where the
    /// controller is not on this cgroup.
    pub fn hugepage_stats(&self) -> Result<Vec<HugepageStats>> {
        let (directory, on_v1, usage, max) = match self.home(Controller::Hugetlb) {
            Some(Home::V1(directory)) => (directory, true, "usage_in_bytes", "limit_in_bytes"),
            Some(Home::V2(directory)) => (directory, false, "current", "max"),
            None => return Ok(Vec::new()),
        };
        let number = |page_size: &str, what: &str| {
            directory.read_number_optional(&format!("hugetlb.{page_size}.{what}"))
        };
        let hits = |page_size: &str| -> Result<u64> {
            if on_v1 {
                return Ok(number(page_size, "failcnt")?.unwrap_or(0));
            }
            let events = directory.read_optional(&format!("hugetlb.{page_size}.events"))?;
            Ok(flat_value(&events.unwrap_or_default(), "max").unwrap_or(0))
        };
        let mut found = Vec::new();
        for page_size in page_sizes(directory, usage)? {
            let usage = directory.read_number(&format!("hugetlb.{page_size}.{usage}"))?;
            let max = directory.read_number(&format!("hugetlb.{page_size}.{max}"))?;
            found.push(HugepageStats {
                usage,
                limit: limit(Some(max)),
                peak: number(&page_size, "max_usage_in_bytes")?,
                limit_hits: hits(&page_size)?,
                page_size,
            });
        }
        found.sort_by(|a, b| a.page_size.cmp(&b.page_size));
        Ok(found)
    }
}

fn page_sizes(directory: &ControlDir, usage: &str) -> Result<Vec<String>> {
    let failed = |source| Error::Open {
        path: directory.path().to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory.path()).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let size = name
            .to_str()
            .and_then(|name| name.strip_prefix("hugetlb."))
            .and_then(|name| name.strip_suffix(usage))
            .and_then(|name| name.strip_suffix('.'));
        // `2MB.rsvd` is the reservation, not another size.
        if let Some(size) = size.filter(|size| !size.contains('.')) {
            found.push(size.to_owned());
        }
    }
    Ok(found)
}

/// v1 says "no limit" with the largest number of whole pages.
const UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

fn limit(number: Option<u64>) -> Option<u64> {
    number.filter(|limit| *limit < UNLIMITED)
}

/// Walks a file of `key value` lines. A line that is not understood is the
/// whole file's fault.
fn each_value<'a>(
    directory: &ControlDir,
    file: &str,
    content: &'a str,
    mut each: impl FnMut(&'a str, u64),
) -> Result<()> {
    for line in content.lines() {
        let parsed = line
            .split_once(' ')
            .and_then(|(key, value)| Some((key, value.trim().parse().ok()?)));
        match parsed {
            Some((key, value)) => each(key, value),
            None => return Err(directory.malformed(file, line)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;

    #[test]
    fn tasks_and_huge_pages_are_counted_on_both_sides() {
        let v1 = FakeTree::v1(&["pids", "hugetlb"]);
        let v2 = FakeTree::v2("pids hugetlb");
        for (tree, pids, hugetlb, usage, max, none) in [
            (
                &v1,
                "pids/a",
                "hugetlb/a",
                "usage_in_bytes",
                "limit_in_bytes",
                "9223372036854771712",
            ),
            (&v2, "a", "a", "current", "max", "max"),
        ] {
            let cgroup = tree.cgroup("/a");
            assert_eq!(cgroup.stats().unwrap().pids, PidsStats::default());
            tree.put(pids, "pids.current", "3\n");
            for (text, limit) in [("max\n", None), ("7\n", Some(7))] {
                tree.put(pids, "pids.max", text);
                assert_eq!(
                    cgroup.stats().unwrap().pids,
                    PidsStats { current: 3, limit }
                );
            }
            for (size, usage_value, max_value) in
                [("2MB", "4096\n", "8192\n"), ("1GB", "0\n", none)]
            {
                tree.put(hugetlb, &format!("hugetlb.{size}.{usage}"), usage_value);
                tree.put(hugetlb, &format!("hugetlb.{size}.rsvd.{usage}"), "0\n");
                tree.put(hugetlb, &format!("hugetlb.{size}.{max}"), max_value);
            }
            tree.put(hugetlb, "hugetlb.2MB.failcnt", "5\n");
            tree.put(hugetlb, "hugetlb.2MB.events", "max 5\n");
            let huge = cgroup.hugepage_stats().unwrap();
            assert_eq!(huge.len(), 2);
            assert_eq!((huge[0].page_size.as_str(), huge[0].limit), ("1GB", None));
            assert_eq!((huge[1].usage, huge[1].limit), (4096, Some(8192)));
            assert_eq!((huge[0].limit_hits, huge[1].limit_hits), (0, 5));
            assert_eq!(huge[1].peak, None);
            tree.put(hugetlb, "hugetlb.2MB.max_usage_in_bytes", "6144\n");
            assert_eq!(cgroup.hugepage_stats().unwrap()[1].peak, Some(6144));
        }
    }

    #[test]
    fn nonsense_in_a_file_is_an_error_that_names_it() {
        let tree = FakeTree::v1(&["pids"]);
        let cgroup = tree.cgroup("/a");
        tree.put("pids/a", "pids.current", "many\n");
        let error = cgroup.stats().unwrap_err();
        assert!(matches!(&error, Error::Malformed { file, .. } if file.ends_with("pids.current")));
    }

    #[test]
    fn a_cgroup_that_is_gone_has_no_stats() {
        let tree = FakeTree::v1(&["pids"]);
        let cgroup = tree.cgroup("/a");
        std::fs::remove_dir(tree.root().join("pids/a")).unwrap();
        assert!(cgroup.stats().unwrap_err().is_not_found());
        assert!(!cgroup.exists());
    }
}
