//! Processor time from `cpuacct` and `cpu` on v1, `cpu.stat` on v2.

use super::{CpuStats, each_value};
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::layout::Controller;

/// `cpuacct.stat` counts in USER_HZ, which is 100 on every architecture that
/// Berth runs on.
const NS_PER_TICK: u64 = 10_000_000;
const NS_PER_US: u64 = 1000;

pub(super) fn collect(cgroup: &Cgroup) -> Result<CpuStats> {
    let mut stats = CpuStats::default();
    match cgroup.v1(Controller::Cpuacct) {
        Some(directory) => {
            let number = |file| directory.read_number_optional(file);
            stats.usage_ns = number("cpuacct.usage")?.unwrap_or(0);
            let user = number("cpuacct.usage_user")?;
            let system = number("cpuacct.usage_sys")?;
            match (user, system) {
                (Some(user), Some(system)) => (stats.user_ns, stats.system_ns) = (user, system),
                _ => ticks(cgroup, &mut stats)?,
            }
        }
        None => unified_time(cgroup, &mut stats)?,
    }
    throttling(cgroup, &mut stats)?;
    Ok(stats)
}

fn ticks(cgroup: &Cgroup, stats: &mut CpuStats) -> Result<()> {
    const FILE: &str = "cpuacct.stat";
    let Some(directory) = cgroup.v1(Controller::Cpuacct) else {
        return Ok(());
    };
    let Some(content) = directory.read_optional(FILE)? else {
        return Ok(());
    };
    each_value(directory, FILE, &content, |key, value| match key {
        "user" => stats.user_ns = value * NS_PER_TICK,
        "system" => stats.system_ns = value * NS_PER_TICK,
        _ => {}
    })
}

/// Times are in `cpu.stat` of every unified cgroup, with or without the
/// controller.
fn unified_time(cgroup: &Cgroup, stats: &mut CpuStats) -> Result<()> {
    const FILE: &str = "cpu.stat";
    let Some(directory) = cgroup.unified() else {
        return Ok(());
    };
    let Some(content) = directory.read_optional(FILE)? else {
        return Ok(());
    };
    each_value(directory, FILE, &content, |key, value| match key {
        "usage_usec" => stats.usage_ns = value * NS_PER_US,
        "user_usec" => stats.user_ns = value * NS_PER_US,
        "system_usec" => stats.system_ns = value * NS_PER_US,
        "nr_periods" => stats.periods = value,
        "nr_throttled" => stats.throttled_periods = value,
        "throttled_usec" => stats.throttled_ns = value * NS_PER_US,
        _ => {}
    })
}

fn throttling(cgroup: &Cgroup, stats: &mut CpuStats) -> Result<()> {
    const FILE: &str = "cpu.stat";
    let Some(directory) = cgroup.v1(Controller::Cpu) else {
        return Ok(());
    };
    let Some(content) = directory.read_optional(FILE)? else {
        return Ok(());
    };
    each_value(directory, FILE, &content, |key, value| match key {
        "nr_periods" => stats.periods = value,
        "nr_throttled" => stats.throttled_periods = value,
        // In nanoseconds on v1.
        "throttled_time" => stats.throttled_ns = value,
        _ => {}
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;

    const EXPECTED: CpuStats = CpuStats {
        usage_ns: 3_000_000_000,
        user_ns: 2_000_000_000,
        system_ns: 1_000_000_000,
        periods: 10,
        throttled_periods: 4,
        throttled_ns: 5_000_000,
    };

    #[test]
    fn v1_and_v2_mean_the_same() {
        let v1 = FakeTree::v1(&["cpu,cpuacct"]);
        let stat = "nr_periods 10\nnr_throttled 4\nthrottled_time 5000000\n";
        let cgroup = v1.cgroup("/a");
        v1.put("cpu,cpuacct/a", "cpu.stat", stat);
        v1.put("cpu,cpuacct/a", "cpuacct.usage", "3000000000\n");
        v1.put("cpu,cpuacct/a", "cpuacct.stat", "user 200\nsystem 100\n");
        assert_eq!(cgroup.stats().unwrap().cpu, EXPECTED);
        v1.put("cpu,cpuacct/a", "cpuacct.usage_user", "2000000000\n");
        v1.put("cpu,cpuacct/a", "cpuacct.usage_sys", "1000000000\n");
        v1.put("cpu,cpuacct/a", "cpuacct.stat", "user 0\nsystem 0\n");
        assert_eq!(cgroup.stats().unwrap().cpu, EXPECTED);

        let v2 = FakeTree::v2("cpu");
        let cgroup = v2.cgroup("/a");
        v2.put(
            "a",
            "cpu.stat",
            "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000\nnice_usec 0\n\
             nr_periods 10\nnr_throttled 4\nthrottled_usec 5000\nnr_bursts 0\n",
        );
        assert_eq!(cgroup.stats().unwrap().cpu, EXPECTED);
    }
}
