use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use berth_cgroups::{
    CgroupStats, CpuLimits, CpuStats, HugepageStats, IoCounter, IoTables, Limits, MemoryLimits,
    Pressure, PressureLine,
};
use berth_lifecycle::request::{ContainerRequest, PodRequest};
use berth_lifecycle::{Details, Processes, WritableUsage};
use berth_network::{Counters, InterfaceStats};
use serde_json::json;

use super::*;

fn counter(operation: &str, value: u64) -> IoCounter {
    IoCounter {
        major: 8,
        minor: 0,
        operation: operation.to_owned(),
        value,
    }
}

fn details() -> Details {
    let table = || {
        vec![
            counter("Read", 4096),
            counter("Write", 1024),
            counter("Total", 9),
        ]
    };
    Details {
        hugepages: vec![HugepageStats {
            page_size: "2MB".to_owned(),
            usage: 1,
            limit: None,
            peak: Some(2),
            limit_hits: 3,
        }],
        io: IoTables {
            bytes: table(),
            operations: table(),
            merged: table(),
            service_time: table(),
            queued: table(),
        },
        devices: BTreeMap::from([((8, 0), "/dev/sda".to_owned())]),
        limits: Limits {
            cpu: Some(CpuLimits {
                shares: 512,
                period: 100_000,
                quota: Some(50_000),
            }),
            memory: Some(MemoryLimits {
                limit: Some(64 << 20),
                swap: None,
                reservation: None,
            }),
        },
        processes: Some(Processes {
            processes: 2,
            max_open_files: Some(1024),
            ..Processes::default()
        }),
        ..Details::default()
    }
}

fn stats() -> CgroupStats {
    let pressure = Some(Pressure {
        some: PressureLine {
            total_us: 2_900_000,
            ..PressureLine::default()
        },
        ..Pressure::default()
    });
    CgroupStats {
        cpu: CpuStats {
            usage_ns: 3_500_000_000,
            ..CpuStats::default()
        },
        cpu_pressure: pressure,
        memory_pressure: pressure,
        io_pressure: pressure,
        ..CgroupStats::default()
    }
}

fn sample() -> PodSample {
    let ids = ["a".repeat(64), "b".repeat(64)];
    let pod_request = PodRequest {
        name: "web".to_owned(),
        namespace: "shop".to_owned(),
        ..PodRequest::default()
    };
    let request = ContainerRequest {
        name: "main".to_owned(),
        image: "sha256:1".to_owned(),
        user_specified_image: "busybox:1".to_owned(),
        ..ContainerRequest::default()
    };
    let pod: PodRecord = serde_json::from_value(json!({
        "id": ids[0], "request": pod_request,
        "state": "ready", "created_at": 1_000_000_000_i64, "ips": [],
        "cgroup_parent": "/kubepods/podu", "network_held": true, "init_pid": null,
    }))
    .unwrap();
    let container: ContainerRecord = serde_json::from_value(json!({
        "id": ids[1], "pod": ids[0],
        "request": request,
        "state": "running", "created_at": 1, "started_at": 7_000_000_000_i64, "exit": null,
        "pid": 1, "image_id": format!("sha256:{}", "c".repeat(64)), "log_path": null,
        "cgroup": "/kubepods/podu/c", "stop_signal": "",
        "user": { "uid": 0, "gid": 0, "additional_gids": [] },
    }))
    .unwrap();
    PodSample {
        record: Arc::new(pod),
        at: 9_000_000_000,
        cgroup: Some(stats()),
        details: Some(Box::new(details())),
        nano_cores: 0,
        processes: 2,
        containers: vec![ContainerSample {
            record: Arc::new(container),
            at: 9_000_000_000,
            cgroup: Some(stats()),
            nano_cores: None,
            writable: Some(WritableUsage {
                bytes: 77,
                inodes: 3,
            }),
            details: Some(Box::new(details())),
        }],
        interfaces: vec![InterfaceStats {
            name: "eth0".to_owned(),
            counters: Counters {
                rx_bytes: 42,
                ..Counters::default()
            },
        }],
    }
}

fn layers() -> Filesystem {
    Filesystem {
        mount_point: "/".into(),
        source: "/dev/sda".to_owned(),
        bytes: 1000,
        inodes: 100,
        inodes_free: 50,
    }
}

/// The value under a name whose labels hold all of `labels`.
fn value(metrics: &[cri::Metric], name: &str, labels: &[&str]) -> Option<u64> {
    let found = metrics.iter().find(|metric| {
        metric.name == name
            && labels
                .iter()
                .all(|label| metric.label_values.iter().any(|value| value == label))
    });
    Some(found?.value.as_ref()?.value)
}

#[test]
fn every_value_has_a_descriptor_with_as_many_labels_and_every_descriptor_a_value() {
    let descriptors: BTreeMap<String, usize> = descriptors()
        .into_iter()
        .map(|descriptor| (descriptor.name, descriptor.label_keys.len()))
        .collect();
    assert_eq!(descriptors.len(), metric::ALL.len(), "names are unique");
    let told = pod(&sample(), &layers());
    let all = told.metrics.iter().chain(
        told.container_metrics
            .iter()
            .flat_map(|container| &container.metrics),
    );
    let mut seen = HashSet::new();
    for metric in all {
        let labels = descriptors.get(&metric.name);
        assert_eq!(labels, Some(&metric.label_values.len()), "{}", metric.name);
        seen.insert(metric.name.clone());
    }
    let silent: Vec<_> = descriptors
        .keys()
        .filter(|name| !seen.contains(*name))
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn counters_and_gauges_are_told_apart_by_name() {
    for definition in metric::ALL {
        let counts = (definition.name.ends_with("_total")
            && definition.name != "container_fs_inodes_total")
            || definition.name.ends_with("failcnt");
        let expected = if counts {
            cri::MetricType::Counter
        } else {
            cri::MetricType::Gauge
        };
        assert_eq!(definition.kind, expected, "{}", definition.name);
    }
}

#[test]
fn labels_and_units_are_those_that_dashboards_know() {
    let told = pod(&sample(), &layers());
    let container = &told.container_metrics[0].metrics;
    let first = &container[0].label_values;
    let id = "b".repeat(64);
    let expected = [
        "main",
        "/kubepods/podu/c",
        "busybox:1",
        id.as_str(),
        "shop",
        "web",
    ];
    assert_eq!(*first, expected);
    for (name, labels, expected) in [
        (
            "container_cpu_usage_seconds_total",
            &["total"] as &[&str],
            3,
        ),
        ("container_start_time_seconds", &[], 7),
        ("container_last_seen", &[], 9),
        ("container_spec_cpu_quota", &[], 50_000),
        ("container_spec_memory_swap_limit_bytes", &[], 0),
        ("container_fs_usage_bytes", &["/dev/sda"], 77),
        ("container_fs_sector_reads_total", &["/dev/sda"], 8),
        (
            "container_blkio_device_usage_total",
            &["8", "0", "Write"],
            1024,
        ),
        ("container_pressure_io_waiting_seconds_total", &[], 2),
        ("container_hugetlb_failcnt", &["2MB"], 3),
        ("container_ulimits_soft", &["max_open_files"], 1024),
    ] {
        assert_eq!(value(container, name, labels), Some(expected), "{name}");
    }
    let network = "container_network_receive_bytes_total";
    assert_eq!(value(&told.metrics, network, &["POD", "eth0"]), Some(42));
    assert_eq!(value(container, network, &[]), None);
}

#[test]
fn a_container_that_does_not_run_has_no_metrics() {
    let mut ended = sample();
    ended.containers[0].cgroup = None;
    assert!(pod(&ended, &layers()).container_metrics.is_empty());
}
