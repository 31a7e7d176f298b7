//! What only metrics show.

use std::collections::BTreeMap;

use berth_cgroups::{Cgroup, Error, HugepageStats, IoCounter, IoTables, Limits, MemoryDetails};

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
    /// Names of the block devices by their numbers; see [`Details::device`].
    pub devices: BTreeMap<(u32, u32), String>,
    pub limits: Limits,
    /// Absent for pods: their containers tell.
    pub processes: Option<Processes>,
    /// Tasks that run, smoothed over ten seconds, in thousandths.
    pub load: u64,
}

impl Details {
    /// The name of a counter's device; its numbers where it has gone.
    pub fn device(&self, counter: &IoCounter) -> String {
        match self.devices.get(&(counter.major, counter.minor)) {
            Some(name) => name.clone(),
            None => format!("{}:{}", counter.major, counter.minor),
        }
    }
}

/// As sysfs lists block devices by number.
fn device_name((major, minor): (u32, u32)) -> Option<String> {
    let path = format!("/sys/dev/block/{major}:{minor}/uevent");
    let text = std::fs::read_to_string(path).ok()?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(format!("/dev/{name}"))
}

pub(super) fn read(cgroup: &Cgroup, pid: Option<u32>, gauge: &Gauge) -> Result<Details, Error> {
    let mut details = Details {
        memory: cgroup.memory_details()?,
        oom_kills: cgroup.oom_kills()?,
        hugepages: cgroup.hugepage_stats()?,
        devices: BTreeMap::new(),
        io: cgroup.io_tables()?,
        limits: cgroup.limits()?,
        processes: None,
        load: 0,
    };
    for counter in details.io.bytes.iter().chain(&details.io.operations) {
        let number = (counter.major, counter.minor);
        if let Some(name) = (!details.devices.contains_key(&number))
            .then(|| device_name(number))
            .flatten()
        {
            details.devices.insert(number, name);
        }
    }
    if let Some(pid) = pid {
        let found = processes::look(&cgroup.pids()?, Some(pid));
        details.load = gauge.load(wall_clock(), found.states.running);
        details.processes = Some(found);
    }
    Ok(details)
}
