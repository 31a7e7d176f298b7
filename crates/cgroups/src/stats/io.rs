//! Block device traffic.

use super::BlockIo;
use crate::cgroup::{Cgroup, Home};
use crate::control::ControlDir;
use crate::error::Result;
use crate::layout::Controller;

pub(super) fn collect(cgroup: &Cgroup) -> Result<Vec<BlockIo>> {
    match cgroup.home(Controller::Blkio) {
        Some(Home::V1(directory)) => v1(directory),
        Some(Home::V2(directory)) => v2(directory),
        None => Ok(Vec::new()),
    }
}

/// Which counters exist depends on kernel and scheduler: the throttling layer
/// sees all traffic, the scheduler's file is the older kernels' answer.
pub(super) const BYTES_V1: [&str; 3] = [
    "blkio.throttle.io_service_bytes_recursive",
    "blkio.throttle.io_service_bytes",
    "blkio.bfq.io_service_bytes_recursive",
];
pub(super) const OPERATIONS_V1: [&str; 3] = [
    "blkio.throttle.io_serviced_recursive",
    "blkio.throttle.io_serviced",
    "blkio.bfq.io_serviced_recursive",
];

fn v1(directory: &ControlDir) -> Result<Vec<BlockIo>> {
    let mut devices = Vec::new();
    each_v1(
        directory,
        BYTES_V1,
        &mut devices,
        |device, operation, bytes| match operation {
            "Read" => device.read_bytes += bytes,
            "Write" => device.write_bytes += bytes,
            _ => {}
        },
    )?;
    each_v1(
        directory,
        OPERATIONS_V1,
        &mut devices,
        |device, operation, count| match operation {
            "Read" => device.read_operations += count,
            "Write" => device.write_operations += count,
            _ => {}
        },
    )?;
    Ok(devices)
}

/// Lines of `8:0 Read 4096`, ended by `Total 4096`.
fn each_v1(
    directory: &ControlDir,
    files: [&str; 3],
    devices: &mut Vec<BlockIo>,
    mut add: impl FnMut(&mut BlockIo, &str, u64),
) -> Result<()> {
    for file in files {
        let Some(content) = directory.read_optional(file)? else {
            continue;
        };
        for line in content.lines() {
            let mut fields = line.split_whitespace();
            let (Some(number), Some(operation), Some(value)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            match (device(devices, number), value.parse()) {
                (Some(device), Ok(value)) => add(device, operation, value),
                _ => return Err(directory.malformed(file, line)),
            }
        }
        return Ok(());
    }
    Ok(())
}

/// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 …`.
fn v2(directory: &ControlDir) -> Result<Vec<BlockIo>> {
    const FILE: &str = "io.stat";
    let mut devices = Vec::new();
    for line in directory.read_optional(FILE)?.unwrap_or_default().lines() {
        let mut fields = line.split_whitespace();
        let Some(number) = fields.next() else {
            continue;
        };
        let Some(device) = device(&mut devices, number) else {
            return Err(directory.malformed(FILE, line));
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let counter = match key {
                "rbytes" => &mut device.read_bytes,
                "wbytes" => &mut device.write_bytes,
                "rios" => &mut device.read_operations,
                "wios" => &mut device.write_operations,
                // Discards, and what cost models add.
                _ => continue,
            };
            match value.parse() {
                Ok(value) => *counter = value,
                Err(_) => return Err(directory.malformed(FILE, line)),
            }
        }
    }
    Ok(devices)
}

/// The entry of a device given as `major:minor`, made if it is new.
fn device<'a>(devices: &'a mut Vec<BlockIo>, number: &str) -> Option<&'a mut BlockIo> {
    let (major, minor) = number.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let at = devices
        .iter()
        .position(|device| (device.major, device.minor) == (major, minor))
        .unwrap_or_else(|| {
            devices.push(BlockIo {
                major,
                minor,
                ..BlockIo::default()
            });
            devices.len() - 1
        });
    devices.get_mut(at)
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::fake::FakeTree;

    #[test]
    fn v1_and_v2_mean_the_same() {
        let v1 = FakeTree::v1(&["blkio"]);
        let on_v1 = v1.cgroup("/a");
        v1.put(
            "blkio/a",
            "blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 4096\n8:0 Write 512\n8:0 Sync 4608\n8:16 Read 1\nTotal 4609\n",
        );
        v1.put(
            "blkio/a",
            "blkio.throttle.io_serviced_recursive",
            "8:0 Read 2\n8:0 Write 1\n8:16 Read 1\nTotal 4\n",
        );
        let v2 = FakeTree::v2("io");
        let on_v2 = v2.cgroup("/a");
        v2.put(
            "a",
            "io.stat",
            "8:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 rios=1\n",
        );
        for cgroup in [on_v1, on_v2] {
            let io = cgroup.stats().unwrap().io;
            assert_eq!(io.len(), 2);
            assert_eq!((io[0].major, io[0].minor), (8, 0));
            assert_eq!((io[0].read_bytes, io[0].write_bytes), (4096, 512));
            assert_eq!((io[0].read_operations, io[0].write_operations), (2, 1));
            assert_eq!(
                (io[1].minor, io[1].read_bytes, io[1].read_operations),
                (16, 1, 1)
            );
        }
    }

    #[test]
    fn idle_devices_and_nonsense_are_told_apart() {
        let tree = FakeTree::v2("io");
        let cgroup = tree.cgroup("/a");
        for (content, good) in [
            ("", true),
            ("7:0 \n", true),
            ("254:1 rbytes=1 cost.usage=9\n", true),
            ("8 rbytes=1\n", false),
            ("8:0 rbytes=x\n", false),
        ] {
            tree.put("a", "io.stat", content);
            match cgroup.stats() {
                Ok(_) => assert!(good, "{content:?}"),
                Err(error) => assert!(!good && matches!(error, Error::Malformed { .. })),
            }
        }
    }
}
