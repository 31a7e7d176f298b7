//! Statistics in the CRI's types.

use std::path::Path;

use berth_api::cri::v1::{self as cri, UInt64Value};
use berth_cgroups::{CgroupStats, Pressure, PressureLine};
use berth_lifecycle::record::Nanos;
use berth_lifecycle::{ContainerSample, PodSample};
use berth_network::{InterfaceStats, POD_INTERFACE};

use crate::tell;

/// `mount` is where the file system of the writable layers is mounted.
pub fn container(sample: &ContainerSample, mount: &Path) -> cri::ContainerStats {
    let record = &sample.record;
    let at = sample.at;
    let cgroup = sample.cgroup.as_ref();
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: record.id.to_string(),
            metadata: Some(tell::container_metadata(record)),
            labels: tell::unsorted(&record.request.labels),
            annotations: tell::unsorted(&record.request.annotations),
        }),
        cpu: cgroup.map(|stats| cpu(stats, sample.nano_cores.unwrap_or(0), at)),
        memory: cgroup.map(|stats| memory(stats, at)),
        writable_layer: sample
            .writable
            .map(|usage| filesystem(at, mount, usage.bytes, usage.inodes)),
        swap: cgroup.map(|stats| cri::SwapUsage {
            timestamp: at,
            swap_available_bytes: stats
                .memory
                .swap_limit
                .map(|limit| number(limit.saturating_sub(stats.memory.swap))),
            swap_usage_bytes: Some(number(stats.memory.swap)),
        }),
        io: cgroup.map(|stats| io(stats, at)),
    }
}

pub fn pod(sample: &PodSample, mount: &Path) -> cri::PodSandboxStats {
    let record = &sample.record;
    let at = sample.at;
    // Containers that do not run have nothing to tell.
    let running: Vec<&ContainerSample> = sample
        .containers
        .iter()
        .filter(|container| container.cgroup.is_some())
        .collect();
    let parts: Vec<&CgroupStats> = running.iter().filter_map(|c| c.cgroup.as_ref()).collect();
    let (cpu, memory, io) = match &sample.cgroup {
        Some(stats) => (
            cpu(stats, sample.nano_cores, at),
            memory(stats, at),
            Some(io(stats, at)),
        ),
        // Stalls of several cgroups do not add up: they happen at once or one after the other.
        None => (
            cri::CpuUsage {
                timestamp: at,
                usage_core_nano_seconds: Some(number(parts.iter().map(|s| s.cpu.usage_ns).sum())),
                usage_nano_cores: Some(number(sample.nano_cores)),
                psi: None,
            },
            sum_of_memory(&parts, at),
            None,
        ),
    };
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: record.id.to_string(),
            metadata: Some(tell::pod_metadata(&record.request)),
            labels: tell::unsorted(&record.request.labels),
            annotations: tell::unsorted(&record.request.annotations),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: Some(cpu),
            memory: Some(memory),
            network: network(&sample.interfaces, at),
            process: Some(cri::ProcessUsage {
                timestamp: at,
                process_count: Some(number(sample.processes)),
            }),
            containers: running.iter().map(|c| container(c, mount)).collect(),
            io,
        }),
        windows: None,
    }
}

pub fn filesystem(at: Nanos, mount: &Path, bytes: u64, inodes: u64) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: at,
        fs_id: Some(cri::FilesystemIdentifier {
            mountpoint: mount.display().to_string(),
        }),
        used_bytes: Some(number(bytes)),
        inodes_used: Some(number(inodes)),
    }
}

/// The pod's own interface first, as the default; none at all on the host's network.
fn network(interfaces: &[InterfaceStats], at: Nanos) -> Option<cri::NetworkUsage> {
    if interfaces.is_empty() {
        return None;
    }
    let (default, others): (Vec<_>, Vec<_>) = interfaces
        .iter()
        .map(interface)
        .partition(|shown| shown.name == POD_INTERFACE);
    Some(cri::NetworkUsage {
        timestamp: at,
        default_interface: default.into_iter().next(),
        interfaces: others,
    })
}

fn cpu(stats: &CgroupStats, nano_cores: u64, at: Nanos) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: Some(number(stats.cpu.usage_ns)),
        usage_nano_cores: Some(number(nano_cores)),
        psi: stats.cpu_pressure.as_ref().map(pressure),
    }
}

fn io(stats: &CgroupStats, at: Nanos) -> cri::IoUsage {
    cri::IoUsage {
        timestamp: at,
        psi: stats.io_pressure.as_ref().map(pressure),
    }
}

fn sum_of_memory(parts: &[&CgroupStats], at: Nanos) -> cri::MemoryUsage {
    let total =
        |field: fn(&CgroupStats) -> u64| Some(number(parts.iter().copied().map(field).sum()));
    // With one container that has no limit the pod has none.
    let available: Option<u64> = parts.iter().map(|stats| stats.memory.available).sum();
    cri::MemoryUsage {
        timestamp: at,
        working_set_bytes: total(|s| s.memory.working_set),
        available_bytes: available.filter(|_| !parts.is_empty()).map(number),
        usage_bytes: total(|s| s.memory.usage),
        rss_bytes: total(|s| s.memory.rss),
        page_faults: total(|s| s.memory.page_faults),
        major_page_faults: total(|s| s.memory.major_page_faults),
        psi: None,
    }
}

fn memory(stats: &CgroupStats, at: i64) -> cri::MemoryUsage {
    let memory = &stats.memory;
    cri::MemoryUsage {
        timestamp: at,
        working_set_bytes: Some(number(memory.working_set)),
        available_bytes: memory.available.map(number),
        usage_bytes: Some(number(memory.usage)),
        rss_bytes: Some(number(memory.rss)),
        page_faults: Some(number(memory.page_faults)),
        major_page_faults: Some(number(memory.major_page_faults)),
        psi: stats.memory_pressure.as_ref().map(pressure),
    }
}

fn interface(stats: &InterfaceStats) -> cri::NetworkInterfaceUsage {
    let counters = &stats.counters;
    cri::NetworkInterfaceUsage {
        name: stats.name.clone(),
        rx_bytes: Some(number(counters.rx_bytes)),
        rx_errors: Some(number(counters.rx_errors)),
        tx_bytes: Some(number(counters.tx_bytes)),
        tx_errors: Some(number(counters.tx_errors)),
    }
}

fn pressure(pressure: &Pressure) -> cri::PsiStats {
    // The contract counts stalls in nanoseconds, the kernel in microseconds.
    let line = |line: &PressureLine| cri::PsiData {
        total: line.total_us.saturating_mul(1000),
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
    };
    cri::PsiStats {
        full: Some(line(&pressure.full)),
        some: Some(line(&pressure.some)),
    }
}

fn number(value: u64) -> UInt64Value {
    UInt64Value { value }
}
