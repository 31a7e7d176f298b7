//! Block device counters by operation, as the kernel names them: what metrics show beyond a sample.

use super::io::{BYTES_V1, OPERATIONS_V1};
use crate::cgroup::{Cgroup, Home};
use crate::control::ControlDir;
use crate::error::Result;
use crate::layout::Controller;

/// One counter of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoCounter {
    pub major: u32,
    pub minor: u32,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard` or `Total`; v2 has the first two and `Discard`.
    pub operation: String,
    pub value: u64,
}

/// Tables that this kernel does not keep are empty: merges, times and queues come from an I/O
/// scheduler with cgroup support, and exist on v1 only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoTables {
    pub bytes: Vec<IoCounter>,
    pub operations: Vec<IoCounter>,
    pub merged: Vec<IoCounter>,
    /// Nanoseconds between dispatch and completion.
    pub service_time: Vec<IoCounter>,
    pub queued: Vec<IoCounter>,
}

const MERGED_V1: [&str; 2] = ["blkio.io_merged_recursive", "blkio.bfq.io_merged_recursive"];
const SERVICE_TIME_V1: [&str; 2] = [
    "blkio.io_service_time_recursive",
    "blkio.bfq.io_service_time_recursive",
];
const QUEUED_V1: [&str; 2] = ["blkio.io_queued_recursive", "blkio.bfq.io_queued_recursive"];

impl Cgroup {
    /// Traffic of block devices by operation.
    pub fn io_tables(&self) -> Result<IoTables> {
        match self.home(Controller::Blkio) {
            Some(Home::V1(directory)) => Ok(IoTables {
                bytes: table_v1(directory, &BYTES_V1)?,
                operations: table_v1(directory, &OPERATIONS_V1)?,
                merged: table_v1(directory, &MERGED_V1)?,
                service_time: table_v1(directory, &SERVICE_TIME_V1)?,
                queued: table_v1(directory, &QUEUED_V1)?,
            }),
            Some(Home::V2(directory)) => tables_v2(directory),
            None => Ok(IoTables::default()),
        }
    }
}

/// The first of `files` that there is.
fn table_v1(directory: &ControlDir, files: &[&str]) -> Result<Vec<IoCounter>> {
    for file in files {
        let Some(content) = directory.read_optional(file)? else {
            continue;
        };
        let mut counters = Vec::new();
        for line in content.lines() {
            let mut fields = line.split_whitespace();
            let (Some(device), Some(operation), Some(value)) =
                (fields.next(), fields.next(), fields.next())
            else {
                // The sum over all devices.
                continue;
            };
            match (numbers(device), value.parse()) {
                (Some((major, minor)), Ok(value)) => counters.push(IoCounter {
                    major,
                    minor,
                    operation: operation.to_owned(),
                    value,
                }),
                _ => return Err(directory.malformed(file, line)),
            }
        }
        return Ok(counters);
    }
    Ok(Vec::new())
}

fn tables_v2(directory: &ControlDir) -> Result<IoTables> {
    const FILE: &str = "io.stat";
    let mut tables = IoTables::default();
    for line in directory.read_optional(FILE)?.unwrap_or_default().lines() {
        let mut fields = line.split_whitespace();
        let Some((major, minor)) = fields.next().and_then(numbers) else {
            return Err(directory.malformed(FILE, line));
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let (table, operation) = match key {
                "rbytes" => (&mut tables.bytes, "Read"),
                "wbytes" => (&mut tables.bytes, "Write"),
                "dbytes" => (&mut tables.bytes, "Discard"),
                "rios" => (&mut tables.operations, "Read"),
                "wios" => (&mut tables.operations, "Write"),
                "dios" => (&mut tables.operations, "Discard"),
                _ => continue,
            };
            let Ok(value) = value.parse() else {
                return Err(directory.malformed(FILE, line));
            };
            table.push(IoCounter {
                major,
                minor,
                operation: operation.to_owned(),
                value,
            });
        }
    }
    Ok(tables)
}

fn numbers(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;

    fn value(table: &[IoCounter], operation: &str) -> Option<u64> {
        let found = table.iter().find(|c| c.operation == operation);
        found.map(|counter| counter.value)
    }

    #[test]
    fn every_operation_of_v1_is_told_and_the_sum_over_devices_is_not() {
        let tree = FakeTree::v1(&["blkio"]);
        let cgroup = tree.cgroup("/a");
        tree.put(
            "blkio/a",
            "blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 4096\n8:0 Write 512\n8:0 Total 4608\nTotal 4608\n",
        );
        tree.put("blkio/a", "blkio.bfq.io_merged_recursive", "8:0 Read 3\n");
        tree.put("blkio/a", "blkio.io_queued_recursive", "8:0 Total 2\n");
        let tables = cgroup.io_tables().unwrap();
        assert_eq!(tables.bytes.len(), 3);
        assert_eq!(value(&tables.bytes, "Total"), Some(4608));
        assert_eq!(value(&tables.merged, "Read"), Some(3));
        assert_eq!(value(&tables.queued, "Total"), Some(2));
        assert!(tables.operations.is_empty() && tables.service_time.is_empty());
    }

    #[test]
    fn v2_has_reads_writes_and_discards() {
        let tree = FakeTree::v2("io");
        let cgroup = tree.cgroup("/a");
        tree.put(
            "a",
            "io.stat",
            "8:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=9 dios=7 cost.usage=1\n",
        );
        let tables = cgroup.io_tables().unwrap();
        assert_eq!(value(&tables.bytes, "Read"), Some(4096));
        assert_eq!(value(&tables.bytes, "Discard"), Some(9));
        assert_eq!(value(&tables.operations, "Write"), Some(1));
        tree.put("a", "io.stat", "8:0 rbytes=x\n");
        assert!(cgroup.io_tables().is_err());
    }
}
