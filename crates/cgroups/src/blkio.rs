//! Block I/O: `blkio` on v1, `io` on v2.

use crate::cgroup::{Cgroup, Home};
use crate::control::ControlDir;
use crate::error::{Error, Result};
use crate::layout::Controller;
use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

/// Weights of a spec are in the range of v1.
const WEIGHTS: std::ops::RangeInclusive<u16> = 10..=1000;

pub(crate) fn apply(cgroup: &Cgroup, io: &LinuxBlockIo) -> Result<()> {
    let throttled = Throttle::ALL
        .iter()
        .any(|throttle| !throttle.of(io).is_empty());
    let weighted = asked(io.weight()).is_some()
        || asked(io.leaf_weight()).is_some()
        || io
            .weight_device()
            .as_ref()
            .is_some_and(|list| !list.is_empty());
    if !throttled && !weighted {
        return Ok(());
    }
    match cgroup.require(Controller::Blkio)? {
        Home::V1(directory) => apply_v1(directory, io),
        Home::V2(directory) => apply_v2(directory, io),
    }
}

#[derive(Clone, Copy)]
enum Throttle {
    ReadBytes,
    WriteBytes,
    ReadOperations,
    WriteOperations,
}

impl Throttle {
    const ALL: [Self; 4] = [
        Self::ReadBytes,
        Self::WriteBytes,
        Self::ReadOperations,
        Self::WriteOperations,
    ];

    fn of(self, io: &LinuxBlockIo) -> &[LinuxThrottleDevice] {
        match self {
            Self::ReadBytes => io.throttle_read_bps_device(),
            Self::WriteBytes => io.throttle_write_bps_device(),
            Self::ReadOperations => io.throttle_read_iops_device(),
            Self::WriteOperations => io.throttle_write_iops_device(),
        }
        .as_deref()
        .unwrap_or_default()
    }

    fn v1_file(self) -> &'static str {
        match self {
            Self::ReadBytes => "blkio.throttle.read_bps_device",
            Self::WriteBytes => "blkio.throttle.write_bps_device",
            Self::ReadOperations => "blkio.throttle.read_iops_device",
            Self::WriteOperations => "blkio.throttle.write_iops_device",
        }
    }

    fn v2_key(self) -> &'static str {
        match self {
            Self::ReadBytes => "rbps",
            Self::WriteBytes => "wbps",
            Self::ReadOperations => "riops",
            Self::WriteOperations => "wiops",
        }
    }
}

fn apply_v1(directory: &ControlDir, io: &LinuxBlockIo) -> Result<()> {
    if let Some(weight) = weight(io.weight())? {
        let file = first_present(directory, ["blkio.bfq.weight", "blkio.weight"]);
        directory.write(file, &weight.to_string())?;
    }
    if let Some(weight) = weight(io.leaf_weight())? {
        directory.write("blkio.leaf_weight", &weight.to_string())?;
    }
    for device in io.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = weight(device.weight())? {
            let files = ["blkio.bfq.weight_device", "blkio.weight_device"];
            let file = first_present(directory, files);
            directory.write(file, &format!("{number} {weight}"))?;
        }
        if let Some(weight) = weight(device.leaf_weight())? {
            directory.write("blkio.leaf_weight_device", &format!("{number} {weight}"))?;
        }
    }
    for throttle in Throttle::ALL {
        for device in throttle.of(io) {
            let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            directory.write(throttle.v1_file(), &line)?;
        }
    }
    Ok(())
}

fn apply_v2(directory: &ControlDir, io: &LinuxBlockIo) -> Result<()> {
    if asked(io.leaf_weight()).is_some() {
        return Err(Error::Unsupported {
            setting: "blkio.leaf_weight",
            version: "v2",
        });
    }
    if let Some(weight) = weight(io.weight())? {
        // The file of the scheduler takes the numbers of v1.
        if directory.has("io.bfq.weight") {
            directory.write("io.bfq.weight", &weight.to_string())?;
        } else {
            directory.write("io.weight", &io_weight(weight).to_string())?;
        }
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = weight(device.weight())? {
            let number = format!("{}:{}", device.major(), device.minor());
            if directory.has("io.bfq.weight") {
                directory.write("io.bfq.weight", &format!("{number} {weight}"))?;
            } else {
                directory.write("io.weight", &format!("{number} {}", io_weight(weight)))?;
            }
        }
    }
    for throttle in Throttle::ALL {
        for device in throttle.of(io) {
            // A rate of 0 lifts the limit on v1.
            let rate = match device.rate() {
                0 => "max".to_owned(),
                rate => rate.to_string(),
            };
            let (major, minor) = (device.major(), device.minor());
            let line = format!("{major}:{minor} {}={rate}", throttle.v2_key());
            directory.write("io.max", &line)?;
        }
    }
    Ok(())
}

/// The v2 `io.weight` that is asked for; none if it is out of range.
pub(crate) fn default_weight(io: &LinuxBlockIo) -> Option<u64> {
    weight(io.weight()).ok().flatten().map(io_weight)
}

/// The v2 `io.weight` (1..=10000) for a v1 weight (10..=1000), linearly.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight) - u64::from(*WEIGHTS.start())) * 9999 / 990
}

fn asked(weight: Option<u16>) -> Option<u16> {
    weight.filter(|weight| *weight != 0)
}

fn weight(weight: Option<u16>) -> Result<Option<u16>> {
    match asked(weight) {
        Some(weight) if !WEIGHTS.contains(&weight) => Err(Error::InvalidResource {
            setting: "blkio.weight",
            value: weight.to_string(),
            problem: "is not between 10 and 1000",
        }),
        other => Ok(other),
    }
}

/// Which of two names this kernel uses; the second if neither exists, so that
/// the error names the classic one.
fn first_present(directory: &ControlDir, names: [&'static str; 2]) -> &'static str {
    if directory.has(names[0]) {
        names[0]
    } else {
        names[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;
    use oci_spec::runtime::{
        LinuxBlockIoBuilder, LinuxResources, LinuxResourcesBuilder, LinuxThrottleDeviceBuilder,
        LinuxWeightDeviceBuilder,
    };

    fn resources(io: LinuxBlockIoBuilder) -> LinuxResources {
        LinuxResourcesBuilder::default()
            .block_io(io.build().unwrap())
            .build()
            .unwrap()
    }

    fn throttle(rate: u64) -> Vec<LinuxThrottleDevice> {
        let device = LinuxThrottleDeviceBuilder::default()
            .major(8i64)
            .minor(16i64)
            .rate(rate);
        vec![device.build().unwrap()]
    }

    #[test]
    fn weights_keep_their_place_in_the_range() {
        for (v1, v2) in [(10, 1), (500, 4950), (1000, 10_000)] {
            assert_eq!(io_weight(v1), v2);
        }
    }

    #[test]
    fn each_throttle_goes_to_its_file() {
        let v1 = FakeTree::v1(&["blkio"]);
        let v2 = FakeTree::v2("io");
        let (on_v1, on_v2) = (v1.cgroup("/a"), v2.cgroup("/a"));
        let io = LinuxBlockIoBuilder::default;
        for (io, file, line, v2_line) in [
            (
                io().throttle_read_bps_device(throttle(5)),
                "blkio.throttle.read_bps_device",
                "8:16 5",
                "8:16 rbps=5",
            ),
            (
                io().throttle_write_bps_device(throttle(6)),
                "blkio.throttle.write_bps_device",
                "8:16 6",
                "8:16 wbps=6",
            ),
            (
                io().throttle_read_iops_device(throttle(7)),
                "blkio.throttle.read_iops_device",
                "8:16 7",
                "8:16 riops=7",
            ),
            (
                io().throttle_write_iops_device(throttle(0)),
                "blkio.throttle.write_iops_device",
                "8:16 0",
                "8:16 wiops=max",
            ),
        ] {
            v1.put("blkio/a", file, "");
            v2.put("a", "io.max", "");
            let resources = resources(io);
            on_v1.apply(&resources).unwrap();
            on_v2.apply(&resources).unwrap();
            assert_eq!(v1.get("blkio/a", file), line);
            assert_eq!(v2.get("a", "io.max"), v2_line);
        }
    }

    #[test]
    fn the_weight_file_of_the_scheduler_is_preferred() {
        let tree = FakeTree::v2("io");
        let cgroup = tree.cgroup("/a");
        tree.put("a", "io.weight", "");
        let weight = resources(LinuxBlockIoBuilder::default().weight(1000u16));
        cgroup.apply(&weight).unwrap();
        assert_eq!(tree.get("a", "io.weight"), "10000");
        tree.put("a", "io.bfq.weight", "");
        cgroup.apply(&weight).unwrap();
        assert_eq!(tree.get("a", "io.bfq.weight"), "1000");
        let device = LinuxWeightDeviceBuilder::default()
            .major(8i64)
            .minor(0i64)
            .weight(10u16);
        let device = LinuxBlockIoBuilder::default().weight_device(vec![device.build().unwrap()]);
        cgroup.apply(&resources(device)).unwrap();
        assert_eq!(tree.get("a", "io.bfq.weight"), "8:0 10");
    }

    #[test]
    fn impossible_weights_are_refused() {
        let tree = FakeTree::v1(&["blkio"]);
        let cgroup = tree.cgroup("/a");
        for weight in [1u16, 9, 1001] {
            let io = LinuxBlockIoBuilder::default().weight(weight);
            let error = cgroup.apply(&resources(io)).unwrap_err();
            assert!(matches!(error, Error::InvalidResource { .. }), "{weight}");
        }
        let nothing = LinuxBlockIoBuilder::default().weight(0u16);
        cgroup.apply(&resources(nothing)).unwrap();
    }
}
