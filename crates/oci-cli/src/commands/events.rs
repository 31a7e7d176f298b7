//! Statistics and out-of-memory events, one JSON object a line, in runc's
//! shape.

use super::id;
use super::state::print_compact;
use crate::arguments::{Arguments, Flag, switch, value};
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use crate::store;
use berth_cgroups::{BlockIo, CgroupStats, Pressure, PressureLine};
use berth_names::go_duration;
use serde_json::{Value, json};
use std::time::Duration;

pub const FLAGS: &[Flag] = &[
    value(
        "interval",
        "",
        "set the stats collection interval (default: 5s)",
    ),
    switch("stats", "", "display the container's stats then exit"),
];

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

pub fn run(global: &Global, _: &Journal, given: &Arguments) -> Result<u8> {
    let interval = match given.value("interval") {
        None => DEFAULT_INTERVAL,
        Some(text) => go_duration(text)
            .filter(|interval| !interval.is_zero())
            .ok_or_else(|| Error::InvalidOption {
                name: "interval",
                value: text.to_owned(),
            })?,
    };
    let state = store::read(&global.root, id(given))?;
    let container = store::load_alive(&state)?;
    if given.is_on("stats") {
        let data = shape(&container.stats()?);
        print_compact(&json!({ "type": "stats", "id": state.id, "data": data }))?;
        return Ok(0);
    }
    let mut oom_kills = container.cgroup().oom_kills().unwrap_or(0);
    loop {
        std::thread::sleep(interval);
        let now = container.cgroup().oom_kills().unwrap_or(oom_kills);
        if now > oom_kills {
            oom_kills = now;
            print_compact(&json!({ "type": "oom", "id": state.id }))?;
        }
        if !container.is_running()? {
            return Ok(0);
        }
        let data = shape(&container.stats()?);
        print_compact(&json!({ "type": "stats", "id": state.id, "data": data }))?;
    }
}

fn shape(stats: &CgroupStats) -> Value {
    let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    json!({
        "cpu": {
            "usage": {
                "total": stats.cpu.usage_ns,
                "kernel": stats.cpu.system_ns,
                "user": stats.cpu.user_ns,
            },
            "throttling": {
                "periods": stats.cpu.periods,
                "throttledPeriods": stats.cpu.throttled_periods,
                "throttledTime": stats.cpu.throttled_ns,
            },
            "psi": stats.cpu_pressure.as_ref().map(pressure),
        },
        "memory": {
            "cache": stats.memory.cache,
            "usage": {
                "limit": limit(stats.memory.limit),
                "usage": stats.memory.usage,
                "failcnt": 0,
            },
            "swap": {
                "limit": limit(stats.memory.swap_limit),
                "usage": stats.memory.swap,
                "failcnt": 0,
            },
            "raw": {
                "rss": stats.memory.rss,
                "cache": stats.memory.cache,
                "mapped_file": stats.memory.mapped_file,
                "active_file": stats.memory.active_file,
                "inactive_file": stats.memory.inactive_file,
                "pgfault": stats.memory.page_faults,
                "pgmajfault": stats.memory.major_page_faults,
            },
            "psi": stats.memory_pressure.as_ref().map(pressure),
        },
        "pids": { "current": stats.pids.current, "limit": stats.pids.limit.unwrap_or(0) },
        "blkio": {
            "ioServiceBytesRecursive": entries(&stats.io, |io| [io.read_bytes, io.write_bytes]),
            "ioServicedRecursive":
                entries(&stats.io, |io| [io.read_operations, io.write_operations]),
            "psi": stats.io_pressure.as_ref().map(pressure),
        },
    })
}

fn entries(devices: &[BlockIo], counts: fn(&BlockIo) -> [u64; 2]) -> Vec<Value> {
    let of_device = |device: &BlockIo| {
        let operations = ["Read", "Write"].into_iter().zip(counts(device));
        let entry = |(operation, value)| {
            json!({
                "major": device.major,
                "minor": device.minor,
                "op": operation,
                "value": value,
            })
        };
        operations.map(entry).collect::<Vec<_>>()
    };
    devices.iter().flat_map(of_device).collect()
}

fn pressure(pressure: &Pressure) -> Value {
    let line = |line: &PressureLine| {
        json!({
            "avg10": line.avg10,
            "avg60": line.avg60,
            "avg300": line.avg300,
            "total": line.total_us,
        })
    };
    json!({ "some": line(&pressure.some), "full": line(&pressure.full) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_as_in_go() {
        for (text, milliseconds) in [
            ("5s", Some(5_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1.5s", Some(1_500)),
            ("5", None),
            ("", None),
            ("s", None),
            ("1y", None),
        ] {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(go_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn statistics_have_the_names_that_readers_of_runc_know() {
        let mut stats = CgroupStats::default();
        stats.cpu.usage_ns = 7;
        stats.io.push(BlockIo {
            major: 8,
            write_bytes: 512,
            ..BlockIo::default()
        });
        let shaped = shape(&stats);
        assert_eq!(shaped["cpu"]["usage"]["total"], 7);
        assert_eq!(shaped["memory"]["usage"]["limit"], u64::MAX);
        let written = &shaped["blkio"]["ioServiceBytesRecursive"][1];
        assert_eq!(
            (&written["op"], &written["value"]),
            (&json!("Write"), &json!(512))
        );
    }
}
