//! The cpu controller: shares or weight, quota, burst, real time, idle.

use crate::cgroup::{Cgroup, Home};
use crate::control::ControlDir;
use crate::error::{Error, Result};
use crate::layout::Controller;
use oci_spec::runtime::LinuxCpu;
use rustix::io::Errno;

const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const MAX_WEIGHT: u64 = 10_000;

/// The v2 `cpu.weight` for v1 shares: 0 stays 0 ("not asked for"), 2 becomes
/// 1, 1024 becomes 100 and 262144 becomes 10000, so that the defaults of both
/// versions meet.
///
/// The curve is the quadratic one that the OCI runtimes and Kubernetes agreed
/// on in place of the linear mapping, which gave 1024 shares a weight of 39:
/// `10^((log2(shares)² + 125·log2(shares)) / 612 − 7/34)`, rounded up.
#[must_use]
pub fn shares_to_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=MIN_SHARES => 1,
        MAX_SHARES.. => MAX_WEIGHT,
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "shares are below 2^18 here")]
            let log = (shares as f64).log2();
            let weight = 10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0);
            // Rounding up must not turn an exact 100 with a last-bit error
            // into 101.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10000"
            )]
            let weight = (weight - 1e-9).ceil() as u64;
            weight.clamp(1, MAX_WEIGHT)
        }
    }
}

pub(crate) fn apply(cgroup: &Cgroup, cpu: &LinuxCpu) -> Result<()> {
    let asked = cpu.shares().is_some_and(|shares| shares > 0)
        || cpu.quota().is_some()
        || cpu.period().is_some()
        || cpu.burst().is_some()
        || cpu.idle().is_some()
        || cpu.realtime_runtime().is_some()
        || cpu.realtime_period().is_some();
    if !asked {
        return Ok(());
    }
    match cgroup.require(Controller::Cpu)? {
        Home::V1(directory) => apply_v1(directory, cpu),
        Home::V2(directory) => apply_v2(directory, cpu),
    }
}

fn apply_v1(directory: &ControlDir, cpu: &LinuxCpu) -> Result<()> {
    if let Some(idle) = cpu.idle() {
        directory.write("cpu.idle", &idle.to_string())?;
    }
    // An idle cgroup has a fixed weight and refuses another.
    if let Some(shares) = shares(cpu) {
        directory.write("cpu.shares", &shares.to_string())?;
    }
    if let Some(period) = cpu.realtime_period() {
        directory.write("cpu.rt_period_us", &period.to_string())?;
    }
    if let Some(runtime) = cpu.realtime_runtime() {
        directory.write("cpu.rt_runtime_us", &runtime.to_string())?;
    }
    bandwidth_v1(directory, cpu)
}

/// Quota ≥ burst holds at every moment, and so does the parent's ratio of
/// quota to period: which of two changes is allowed first depends on the
/// values that are there.
fn bandwidth_v1(directory: &ControlDir, cpu: &LinuxCpu) -> Result<()> {
    let quota = cpu.quota().map(|quota| quota.max(-1).to_string());
    let period = cpu
        .period()
        .filter(|period| *period > 0)
        .map(|p| p.to_string());
    let burst = cpu.burst().map(|burst| burst.to_string());

    let mut burst_left = burst.as_deref();
    if burst_left.is_some_and(|burst| directory.try_write("cpu.cfs_burst_us", burst).is_ok()) {
        burst_left = None;
    }
    let mut period_left = period.as_deref();
    if let Some(period) = period_left {
        match directory.try_write("cpu.cfs_period_us", period) {
            Ok(()) => period_left = None,
            Err(e) if quota.is_some() && Errno::from_io_error(&e) == Some(Errno::INVAL) => {}
            Err(source) => return Err(directory.write_error("cpu.cfs_period_us", period, source)),
        }
    }
    if let Some(quota) = &quota {
        directory.write("cpu.cfs_quota_us", quota)?;
    }
    if let Some(period) = period_left {
        directory.write("cpu.cfs_period_us", period)?;
    }
    if let Some(burst) = burst_left {
        directory.write("cpu.cfs_burst_us", burst)?;
    }
    Ok(())
}

fn apply_v2(directory: &ControlDir, cpu: &LinuxCpu) -> Result<()> {
    let unsupported = |setting| Error::Unsupported {
        setting,
        version: "v2",
    };
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
        return Err(unsupported("cpu.rt_runtime_us"));
    }
    if cpu.realtime_period().is_some_and(|period| period != 0) {
        return Err(unsupported("cpu.rt_period_us"));
    }
    if let Some(idle) = cpu.idle() {
        directory.write("cpu.idle", &idle.to_string())?;
    }
    if let Some(shares) = shares(cpu) {
        directory.write("cpu.weight", &shares_to_weight(shares).to_string())?;
    }
    let mut burst = cpu.burst().map(|burst| burst.to_string());
    if let Some(value) = &burst
        && directory.try_write("cpu.max.burst", value).is_ok()
    {
        burst = None;
    }
    if let Some(max) = bandwidth_v2(directory, cpu)? {
        directory.write("cpu.max", &max)?;
    }
    if let Some(burst) = burst {
        directory.write("cpu.max.burst", &burst)?;
    }
    Ok(())
}

/// The line for `cpu.max`. A quota alone leaves the period to the kernel; a
/// period alone needs the quota that is there.
fn bandwidth_v2(directory: &ControlDir, cpu: &LinuxCpu) -> Result<Option<String>> {
    let quota = cpu.quota().map(|quota| match quota {
        ..=0 => "max".to_owned(),
        quota => quota.to_string(),
    });
    let period = cpu.period().filter(|period| *period > 0);
    match (quota, period) {
        (None, None) => Ok(None),
        (Some(quota), None) => Ok(Some(quota)),
        (Some(quota), Some(period)) => Ok(Some(format!("{quota} {period}"))),
        (None, Some(period)) => {
            let content = directory.read("cpu.max")?;
            let quota = content
                .split_whitespace()
                .next()
                .ok_or_else(|| directory.malformed("cpu.max", &content))?;
            Ok(Some(format!("{quota} {period}")))
        }
    }
}

fn shares(cpu: &LinuxCpu) -> Option<u64> {
    if cpu.idle() == Some(1) {
        return None;
    }
    cpu.shares().filter(|shares| *shares > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;
    use oci_spec::runtime::{LinuxCpuBuilder, LinuxResourcesBuilder};
    use proptest::prelude::*;

    #[test]
    fn shares_meet_the_published_points() {
        for (shares, weight) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (3, 2),
            (100, 17),
            (512, 59),
            (1023, 100),
            (1024, 100),
            (1025, 101),
            (2048, 174),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(shares_to_weight(shares), weight, "{shares} shares");
        }
    }

    proptest! {
        #[test]
        fn more_shares_never_weigh_less(a in 1u64..300_000, b in 1u64..300_000) {
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(shares_to_weight(low) <= shares_to_weight(high));
            prop_assert!((1..=10_000).contains(&shares_to_weight(a)));
        }
    }

    fn resources(cpu: LinuxCpuBuilder) -> oci_spec::runtime::LinuxResources {
        LinuxResourcesBuilder::default()
            .cpu(cpu.build().unwrap())
            .build()
            .unwrap()
    }

    #[test]
    fn only_what_is_asked_for_is_written_on_v1() {
        let tree = FakeTree::v1(&["cpu"]);
        let cgroup = tree.cgroup("/a");
        for file in ["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us"] {
            tree.put("cpu/a", file, "unset");
        }
        let shares = resources(LinuxCpuBuilder::default().shares(512u64));
        cgroup.apply(&shares).unwrap();
        assert_eq!(tree.get("cpu/a", "cpu.shares"), "512");
        assert_eq!(tree.get("cpu/a", "cpu.cfs_quota_us"), "unset");

        let quota = LinuxCpuBuilder::default()
            .quota(-5i64)
            .period(100_000u64)
            .shares(0u64);
        cgroup.apply(&resources(quota)).unwrap();
        assert_eq!(tree.get("cpu/a", "cpu.shares"), "512");
        assert_eq!(tree.get("cpu/a", "cpu.cfs_quota_us"), "-1");
        assert_eq!(tree.get("cpu/a", "cpu.cfs_period_us"), "100000");
    }

    #[test]
    fn v2_values_are_written_in_v2_words() {
        let tree = FakeTree::v2("cpu");
        let cgroup = tree.cgroup("/a");
        for (cpu, max, weight) in [
            (
                LinuxCpuBuilder::default().shares(1024u64),
                "max 100000",
                "100",
            ),
            (LinuxCpuBuilder::default().quota(50_000i64), "50000", "1"),
            (
                LinuxCpuBuilder::default().quota(-1i64).period(20_000u64),
                "max 20000",
                "1",
            ),
            (
                LinuxCpuBuilder::default().period(20_000u64),
                "max 20000",
                "1",
            ),
            (
                LinuxCpuBuilder::default()
                    .quota(7_000i64)
                    .period(20_000u64)
                    .shares(2u64),
                "7000 20000",
                "1",
            ),
        ] {
            tree.put("a", "cpu.max", "max 100000");
            tree.put("a", "cpu.weight", "1");
            cgroup.apply(&resources(cpu)).unwrap();
            assert_eq!(tree.get("a", "cpu.max"), max);
            assert_eq!(tree.get("a", "cpu.weight"), weight);
        }
        let realtime = LinuxCpuBuilder::default().realtime_runtime(1000i64);
        assert!(matches!(
            cgroup.apply(&resources(realtime)),
            Err(Error::Unsupported { .. })
        ));
    }

    #[test]
    fn an_idle_cgroup_is_not_given_shares() {
        let tree = FakeTree::v2("cpu");
        let cgroup = tree.cgroup("/a");
        tree.put("a", "cpu.idle", "0");
        tree.put("a", "cpu.weight", "unset");
        let cpu = LinuxCpuBuilder::default().idle(1i64).shares(1024u64);
        cgroup.apply(&resources(cpu)).unwrap();
        assert_eq!(tree.get("a", "cpu.idle"), "1");
        assert_eq!(tree.get("a", "cpu.weight"), "unset");
    }
}
