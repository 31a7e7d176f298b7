//! Statistics in the CRI's types.

use std::path::Path;

use berth_api::cri::v1::{self as cri, UInt64Value};
use berth_cgroups::{CgroupStats, Pressure, PressureLine};
use berth_lifecycle::{ContainerSample, PodSample};
use berth_network::{InterfaceStats, POD_INTERFACE};

use crate::tell;

pub fn container(sample: &ContainerSample, snapshot_dir: &Path) -> cri::ContainerStats {
    let record = &sample.record;
    let at = sample.at;
    let cgroup = sample.cgroup.as_ref();
    let writable = sample.writable.map(|usage| cri::FilesystemUsage {
        timestamp: at,
        fs_id: Some(cri::FilesystemIdentifier {
            mountpoint: snapshot_dir.display().to_string(),
        }),
        used_bytes: Some(number(usage.bytes)),
        inodes_used: Some(number(usage.inodes)),
    });
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: record.id.to_string(),
            metadata: Some(tell::container_metadata(record)),
            labels: tell::unsorted(&record.request.labels),
            annotations: tell::unsorted(&record.request.annotations),
        }),
        cpu: cgroup.map(|stats| cri::CpuUsage {
            timestamp: at,
            usage_core_nano_seconds: Some(number(stats.cpu.usage_ns)),
            // Kubelets read an absent rate as zero; the first sample has none to give.
            usage_nano_cores: Some(number(sample.nano_cores.unwrap_or(0))),
            psi: stats.cpu_pressure.as_ref().map(pressure),
        }),
        memory: cgroup.map(|stats| memory(stats, at)),
        writable_layer: writable,
        swap: cgroup.map(|stats| cri::SwapUsage {
            timestamp: at,
            swap_available_bytes: stats
                .memory
                .swap_limit
                .map(|limit| number(limit.saturating_sub(stats.memory.swap))),
            swap_usage_bytes: Some(number(stats.memory.swap)),
        }),
        io: cgroup.map(|stats| cri::IoUsage {
            timestamp: at,
            psi: stats.io_pressure.as_ref().map(pressure),
        }),
    }
}

pub fn pod(sample: &PodSample, snapshot_dir: &Path) -> cri::PodSandboxStats {
    let record = &sample.record;
    let running: Vec<&ContainerSample> = sample
        .containers
        .iter()
        .filter(|container| container.cgroup.is_some())
        .collect();
    let stats = || {
        running
            .iter()
            .filter_map(|container| container.cgroup.as_ref())
    };
    let cpu = cri::CpuUsage {
        timestamp: sample.at,
        usage_core_nano_seconds: Some(number(stats().map(|s| s.cpu.usage_ns).sum())),
        usage_nano_cores: Some(number(running.iter().filter_map(|c| c.nano_cores).sum())),
        psi: None,
    };
    let total = |field: fn(&CgroupStats) -> u64| Some(number(stats().map(field).sum()));
    let memory = cri::MemoryUsage {
        timestamp: sample.at,
        working_set_bytes: total(|s| s.memory.working_set),
        available_bytes: None,
        usage_bytes: total(|s| s.memory.usage),
        rss_bytes: total(|s| s.memory.rss),
        page_faults: total(|s| s.memory.page_faults),
        major_page_faults: total(|s| s.memory.major_page_faults),
        psi: None,
    };
    let interfaces: Vec<cri::NetworkInterfaceUsage> = sample
        .interfaces
        .iter()
        .filter(|i| i.name != "lo")
        .map(interface)
        .collect();
    let network = (!interfaces.is_empty()).then(|| cri::NetworkUsage {
        timestamp: sample.at,
        default_interface: interfaces.iter().find(|i| i.name == POD_INTERFACE).cloned(),
        interfaces: interfaces
            .iter()
            .filter(|i| i.name != POD_INTERFACE)
            .cloned()
            .collect(),
    });
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
            network,
            process: Some(cri::ProcessUsage {
                timestamp: sample.at,
                process_count: total(|s| s.pids.current),
            }),
            containers: running.iter().map(|c| container(c, snapshot_dir)).collect(),
            io: None,
        }),
        windows: None,
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
