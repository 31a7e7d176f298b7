//! Resources as properties of a unit (systemd.resource-control(5)).
//!
//! They say what the control files say. systemd writes a unit's files anew
//! whenever one of its properties changes, so what it is not told it takes
//! back.

use super::wire::{Property, Value};
use crate::blkio::default_weight;
use crate::cpu::shares_to_weight;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use std::collections::HashMap;

/// No limit.
const INFINITY: u64 = u64::MAX;
const SECOND: u64 = 1_000_000;
const DEFAULT_PERIOD: u64 = 100_000;
/// systemd keeps a quota as whole percents of a processor: a hundredth of a
/// second for each second. Rounded up, so that nobody gets less than asked.
const QUOTA_STEP: u64 = 10_000;
/// Most processors or memory nodes in a set.
const MOST_IN_SET: usize = 8192;

/// What of `resources` systemd has properties for; the rest is in the control
/// files alone.
#[must_use]
pub fn properties(resources: &LinuxResources) -> Vec<Property> {
    let mut out = Vec::new();
    if let Some(cpu) = resources.cpu() {
        of_cpu(cpu, &mut out);
    }
    if let Some(memory) = resources.memory() {
        of_memory(memory, &mut out);
    }
    match resources.pids().as_ref().map(|pids| pids.limit()) {
        None | Some(0) => {}
        Some(limit) => out.push(number("TasksMax", limited(limit))),
    }
    if let Some(weight) = resources.block_io().as_ref().and_then(default_weight) {
        out.push(number("IOWeight", weight));
    }
    if let Some(files) = resources.unified() {
        of_unified(files, &mut out);
    }
    out
}

fn of_cpu(cpu: &LinuxCpu, out: &mut Vec<Property>) {
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0)
        && cpu.idle() != Some(1)
    {
        out.push(number("CPUWeight", shares_to_weight(shares)));
    }
    if let Some(quota) = cpu.quota() {
        let period = cpu.period().filter(|period| *period > 0);
        bandwidth(quota, period, out);
    }
    set("AllowedCPUs", cpu.cpus().as_deref(), out);
    set("AllowedMemoryNodes", cpu.mems().as_deref(), out);
}

fn bandwidth(quota: i64, period: Option<u64>, out: &mut Vec<Property>) {
    let per_second = match u64::try_from(quota) {
        Ok(quota) if quota > 0 => {
            let period = u128::from(period.unwrap_or(DEFAULT_PERIOD));
            let per_second = u128::from(quota) * u128::from(SECOND) / period;
            let per_second = u64::try_from(per_second).unwrap_or(INFINITY);
            per_second
                .checked_next_multiple_of(QUOTA_STEP)
                .unwrap_or(INFINITY)
        }
        _ => INFINITY,
    };
    out.retain(|(name, _)| !name.starts_with("CPUQuota"));
    if let Some(period) = period {
        out.push(number("CPUQuotaPeriodUSec", period));
    }
    out.push(number("CPUQuotaPerSecUSec", per_second));
}

fn of_memory(memory: &LinuxMemory, out: &mut Vec<Property>) {
    let asked = |value: Option<i64>| value.filter(|value| *value != 0);
    let limit = asked(memory.limit());
    if let Some(limit) = limit {
        out.push(number("MemoryMax", limited(limit)));
    }
    match (asked(memory.swap()), limit) {
        (Some(..0), _) => out.push(number("MemorySwapMax", INFINITY)),
        // The specification's number includes memory, systemd's does not.
        (Some(total), Some(limit)) if total >= limit && limit > 0 => {
            out.push(number("MemorySwapMax", limited(total - limit)));
        }
        _ => {}
    }
    if let Some(reservation) = asked(memory.reservation()) {
        out.push(number("MemoryLow", limited(reservation)));
    }
}

/// Those of the `unified` map that systemd would take back otherwise. What is
/// not understood is left to the kernel to judge.
fn of_unified(files: &HashMap<String, String>, out: &mut Vec<Property>) {
    let mut files: Vec<_> = files.iter().collect();
    files.sort();
    for (file, text) in files {
        let text = text.trim();
        let property = match file.as_str() {
            "cpu.weight" => "CPUWeight",
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpuset.cpus" => {
                set("AllowedCPUs", Some(text), out);
                continue;
            }
            "cpuset.mems" => {
                set("AllowedMemoryNodes", Some(text), out);
                continue;
            }
            "cpu.max" => {
                let mut words = text.split_whitespace();
                let quota = words.next().map(|word| word.parse().unwrap_or(-1));
                let period = words.next().and_then(|word| word.parse().ok());
                bandwidth(quota.unwrap_or(-1), period, out);
                continue;
            }
            // A weight of one device is nothing that systemd would take back.
            "io.weight" if !text.contains(':') => {
                out.retain(|(name, _)| name != "IOWeight");
                let weight = text.strip_prefix("default").unwrap_or(text).trim().parse();
                out.extend(weight.map(|weight| number("IOWeight", weight)));
                continue;
            }
            _ => continue,
        };
        let value = match text {
            "max" => Some(INFINITY),
            text => text.parse().ok(),
        };
        out.retain(|(name, _)| name != property);
        out.extend(value.map(|value| number(property, value)));
    }
}

fn limited(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(INFINITY)
}

fn number(name: &str, value: u64) -> Property {
    (name.to_owned(), Value::U64(value))
}

/// `0-3,8` as bits, the lowest number in the lowest bit of the first byte.
fn set(name: &str, list: Option<&str>, out: &mut Vec<Property>) {
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return;
    };
    let mut bits = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse::<usize>()) else {
            return;
        };
        if last >= MOST_IN_SET {
            return;
        }
        for number in first..=last {
            let byte: usize = number / 8;
            if bits.len() <= byte {
                bits.resize(byte + 1, 0);
            }
            if let Some(byte) = bits.get_mut(byte) {
                *byte |= 1u8 << (number % 8);
            }
        }
    }
    out.retain(|(other, _)| other != name);
    out.push((name.to_owned(), Value::Bytes(bits)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{
        LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder,
        LinuxResourcesBuilder,
    };

    fn get(properties: &[Property], name: &str) -> Option<Value> {
        let mut found = properties.iter().filter(|(other, _)| other == name);
        let value = found.next().map(|(_, value)| value.clone());
        assert!(found.next().is_none(), "{name} twice");
        value
    }

    #[test]
    fn limits_are_told_in_systemds_units() {
        let cpu = LinuxCpuBuilder::default()
            .shares(512u64)
            .quota(12_345i64)
            .period(50_000u64)
            .cpus("0-1,9")
            .mems("0")
            .build()
            .unwrap();
        let memory = LinuxMemoryBuilder::default()
            .limit(1000i64)
            .swap(3000i64)
            .reservation(-1i64)
            .build()
            .unwrap();
        let io = LinuxBlockIoBuilder::default().weight(500u16);
        let io = io.build().unwrap();
        let resources = LinuxResourcesBuilder::default()
            .cpu(cpu)
            .memory(memory)
            .block_io(io)
            .pids(LinuxPidsBuilder::default().limit(7).build().unwrap())
            .build()
            .unwrap();
        let told = properties(&resources);
        for (name, value) in [
            ("CPUWeight", Value::U64(59)),
            ("CPUQuotaPeriodUSec", Value::U64(50_000)),
            // 246,900 rounded up.
            ("CPUQuotaPerSecUSec", Value::U64(250_000)),
            ("AllowedCPUs", Value::Bytes(vec![3, 2])),
            ("AllowedMemoryNodes", Value::Bytes(vec![1])),
            ("MemoryMax", Value::U64(1000)),
            ("MemorySwapMax", Value::U64(2000)),
            ("MemoryLow", Value::U64(u64::MAX)),
            ("TasksMax", Value::U64(7)),
            ("IOWeight", Value::U64(4950)),
        ] {
            assert_eq!(get(&told, name), Some(value), "{name}");
        }
        assert_eq!(properties(&LinuxResources::default()), []);
    }

    #[test]
    fn files_of_the_unified_tree_win_over_the_rest() {
        let files = [
            ("memory.max", "5"),
            ("memory.high", "max"),
            ("cpu.max", "max 100000"),
            ("cpuset.cpus", "2"),
            ("memory.oom.group", "1"),
            ("pids.max", "odd"),
            ("io.weight", "default 50"),
        ];
        let files = files.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let memory = LinuxMemoryBuilder::default().limit(1000i64);
        let resources = LinuxResourcesBuilder::default()
            .memory(memory.build().unwrap())
            .unified(HashMap::from(files))
            .build()
            .unwrap();
        let told = properties(&resources);
        assert_eq!(get(&told, "MemoryMax"), Some(Value::U64(5)));
        assert_eq!(get(&told, "MemoryHigh"), Some(Value::U64(u64::MAX)));
        assert_eq!(get(&told, "CPUQuotaPerSecUSec"), Some(Value::U64(u64::MAX)));
        assert_eq!(get(&told, "AllowedCPUs"), Some(Value::Bytes(vec![4])));
        assert_eq!(get(&told, "TasksMax"), None);
        assert_eq!(get(&told, "IOWeight"), Some(Value::U64(50)));
    }

    #[test]
    fn odd_sets_are_left_to_the_kernel() {
        for list in ["x", "1-", "-1", "0,,1", "99999", "0-99999"] {
            let mut out = Vec::new();
            set("AllowedCPUs", Some(list), &mut out);
            assert_eq!(out, [], "{list}");
        }
    }
}
