//! What only metrics show.

use berth_cgroups::{Cgroup, Error, HugepageStats, IoTables, Limits, MemoryDetails};

use super::gauge::Gauge;
use super::processes::{self, Processes};
use super::wall_clock;

/// One cgroup beyond its statistics.
#[derive(Debug, Clone, Default)]
pub struct Details {
    pub memory: MemoryDetails,
    pub oom_kills: u64,
    pub hugepages: Vec<HugepageStats>,
    pub io: IoTables,
    pub limits: Limits,
    /// Absent for pods: their containers tell.
    pub processes: Option<Processes>,
    /// Tasks that run, smoothed over ten seconds, in thousandths.
    pub load: u64,
}

pub(super) fn read(cgroup: &Cgroup, pid: Option<u32>, gauge: &Gauge) -> Result<Details, Error> {
    let mut details = Details {
        memory: cgroup.memory_details()?,
        oom_kills: cgroup.oom_kills()?,
        hugepages: cgroup.hugepage_stats()?,
        io: cgroup.io_tables()?,
        limits: cgroup.limits()?,
        processes: None,
        load: 0,
    };
    if let Some(pid) = pid {
        let found = processes::look(&cgroup.pids()?, Some(pid));
        details.load = gauge.load(wall_clock(), found.states.running);
        details.processes = Some(found);
    }
    Ok(details)
}
