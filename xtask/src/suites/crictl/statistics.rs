//! What containers and pods use, as statistics, metrics and file systems.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::life::{SOON, number};
use super::same;
use super::session::Session;
use crate::command::retry;
use crate::cri::Cri;

/// Some counters are taken at intervals: they get time to appear.
pub fn stats(session: &mut Session) -> Result<()> {
    retry(SOON, || {
        let stats =
            session
                .crictl
                .json(&["stats", "--output", "json", "--id", &session.container])?;
        let sample = &stats["stats"][0];
        let id = sample["attributes"]["id"].as_str();
        same("container", id, Some(session.container.as_str()))?;
        for (group, counter) in [
            ("cpu", "usageCoreNanoSeconds"),
            ("cpu", "usageNanoCores"),
            ("memory", "workingSetBytes"),
            ("memory", "usageBytes"),
            ("memory", "rssBytes"),
            ("memory", "availableBytes"),
            ("memory", "pageFaults"),
            ("writableLayer", "usedBytes"),
            ("writableLayer", "inodesUsed"),
        ] {
            let value = number(&sample[group][counter]["value"]);
            ensure!(value > 0, "{group}.{counter}: {sample}");
        }
        let memory = |counter: &str| number(&sample["memory"][counter]["value"]);
        ensure!(
            memory("workingSetBytes") <= memory("usageBytes"),
            "working set: {sample}"
        );
        let mount = sample["writableLayer"]["fsId"]["mountpoint"].as_str();
        is_mount_point(mount.unwrap_or_default())?;
        pod_stats(session)
    })
}

fn pod_stats(session: &Session) -> Result<()> {
    let pods = session
        .crictl
        .json(&["statsp", "--output", "json", "--id", &session.pod])?;
    let pod = &pods["stats"][0]["linux"];
    let default = &pod["network"]["defaultInterface"];
    same("default interface", default["name"].as_str(), Some("eth0"))?;
    for counter in ["rxBytes", "txBytes"] {
        ensure!(
            number(&default[counter]["value"]) > 0,
            "{counter}: {default}"
        );
    }
    for (group, counter) in [
        ("cpu", "usageCoreNanoSeconds"),
        ("memory", "usageBytes"),
        ("process", "processCount"),
    ] {
        let value = number(&pod[group][counter]["value"]);
        ensure!(value > 0, "{group}.{counter}: {pod}");
    }
    Ok(())
}

/// Every metric that is told is described, and what must be there is, with sane values.
pub fn metrics(session: &mut Session) -> Result<()> {
    let described = session.crictl.json(&["metricdescs"])?;
    let described: BTreeMap<&str, usize> = described["descriptors"]
        .as_array()
        .context("no descriptors")?
        .iter()
        .filter_map(|one| Some((one["name"].as_str()?, one["labelKeys"].as_array()?.len())))
        .collect();
    ensure!(described.len() > 60, "{} descriptors", described.len());

    let told = session.crictl.json(&["metricsp"])?;
    let pods = told["podMetrics"].as_array().context("no pods")?;
    let pod = pods
        .iter()
        .find(|pod| pod["podSandboxId"] == session.pod)
        .context("the pod has no metrics")?;
    let containers = pod["containerMetrics"].as_array().context("no container")?;
    let container = containers
        .iter()
        .find(|one| one["containerId"] == session.container)
        .context("the container has no metrics")?;
    for metric in all(pod).chain(all(container)) {
        let name = metric["name"].as_str().unwrap_or_default();
        let labels = metric["labelValues"].as_array().map(Vec::len);
        same(name, labels, described.get(name).copied())?;
    }
    expected(container)?;
    let received = value(pod, "container_network_receive_bytes_total").context("no traffic")?;
    ensure!(received > 0, "nothing received");
    Ok(())
}

fn expected(container: &Value) -> Result<()> {
    for (name, least, most) in [
        ("container_cpu_usage_seconds_total", 0, 60),
        ("container_memory_usage_bytes", 1, 64 << 20),
        ("container_memory_working_set_bytes", 1, 64 << 20),
        ("container_memory_rss", 1, 64 << 20),
        ("container_memory_failures_total", 0, 10_000_000),
        ("container_oom_events_total", 0, 0),
        ("container_processes", 1, 20),
        ("container_threads", 1, 20),
        ("container_file_descriptors", 1, 200),
        ("container_sockets", 0, 20),
        ("container_ulimits_soft", 1, i64::MAX),
        ("container_spec_cpu_period", 1000, 1_000_000),
        ("container_spec_cpu_shares", 2, 262_144),
        ("container_spec_memory_limit_bytes", 1, i64::MAX),
        ("container_fs_usage_bytes", 1, 1 << 30),
        ("container_fs_limit_bytes", 1 << 20, i64::MAX),
        ("container_last_seen", 1_700_000_000, i64::MAX),
        ("container_start_time_seconds", 1_700_000_000, i64::MAX),
    ] {
        let found = value(container, name).with_context(|| format!("no {name}"))?;
        ensure!((least..=most).contains(&found), "{name} is {found}");
    }
    if Path::new("/proc/pressure").is_dir() {
        for what in ["cpu", "memory", "io"] {
            for how in ["waiting", "stalled"] {
                let name = format!("container_pressure_{what}_{how}_seconds_total");
                ensure!(value(container, &name).is_some(), "no {name}");
            }
        }
    }
    Ok(())
}

fn all(holder: &Value) -> impl Iterator<Item = &Value> {
    holder["metrics"].as_array().into_iter().flatten()
}

fn value(holder: &Value, name: &str) -> Option<i64> {
    let metric = all(holder).find(|metric| metric["name"] == name)?;
    Some(number(&metric["value"]["value"]))
}

/// The streams hold what the lists do.
pub fn streams(session: &mut Session) -> Result<()> {
    let mut cri = Cri::connect(&session.place.socket())?;
    let streamed = cri.streamed().context("streaming the lists")?;
    let pods: Vec<_> = cri.pods()?.into_iter().map(|pod| pod.id).collect();
    let containers: Vec<_> = cri.containers()?.into_iter().map(|one| one.id).collect();
    let images: Vec<_> = cri.images()?.into_iter().map(|image| image.id).collect();
    ensure!(!pods.is_empty() && !containers.is_empty() && !images.is_empty());
    same("pods", &streamed.pods, &pods)?;
    same("containers", &streamed.containers, &containers)?;
    same("images", &streamed.images, &images)?;
    for (what, ids, id) in [
        ("statistics", &streamed.container_stats, &session.container),
        ("statistics of pods", &streamed.pod_stats, &session.pod),
        ("metrics", &streamed.pod_metrics, &session.pod),
    ] {
        ensure!(ids.contains(id), "{what}: no {id} in {ids:?}");
    }
    Ok(())
}

/// As a Prometheus scrapes them. A pull that is refused is counted between two scrapes.
pub fn own_metrics(session: &mut Session) -> Result<()> {
    let before = scrape(session.metrics)?;
    for (sample, least) in [
        (
            "berth_grpc_calls_total{method=\"RunPodSandbox\",code=\"Ok\"}",
            1,
        ),
        (
            "berth_grpc_call_duration_seconds_count{method=\"Version\"}",
            1,
        ),
        ("berth_pods{state=\"ready\"}", 1),
        ("berth_containers{state=\"running\"}", 1),
        ("berth_shims", 1),
        ("berth_pulls_total", 1),
        ("berth_pull_received_bytes_total", 1000),
        ("berth_store_commits_total", 1),
        ("berth_resident_memory_bytes", 1 << 20),
    ] {
        let found = sample_of(&before, sample)?;
        ensure!(found >= f64::from(least), "{sample} is {found}");
    }
    session
        .crictl
        .refusal(&["pull", &session.reference(":never")])?;
    let after = scrape(session.metrics)?;
    let failures = "berth_pull_failures_total{reason=\"not_found\"}";
    let earlier = sample_of(&before, failures).unwrap_or(0.0);
    let added = sample_of(&after, failures)? - earlier;
    ensure!(added > 0.5, "failures grew by {added}");
    ensure!(
        sample_of(&after, "berth_pulls_in_progress")? < 0.5,
        "a pull seems to be under way"
    );
    Ok(())
}

fn scrape(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).context("connecting to the metrics")?;
    stream
        .set_read_timeout(Some(SOON))
        .context("limiting the wait")?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .context("asking for the metrics")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("reading the metrics")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(answer)
}

fn sample_of(text: &str, sample: &str) -> Result<f64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
        .with_context(|| format!("no {sample}"))?;
    value.parse().with_context(|| format!("{sample} {value}"))
}

pub fn filesystems(session: &mut Session) -> Result<()> {
    let info = session.crictl.json(&["imagefsinfo", "--output", "json"])?;
    let info = if info["status"].is_object() {
        &info["status"]
    } else {
        &info
    };
    for (kind, least) in [("imageFilesystems", 1 << 20), ("containerFilesystems", 1)] {
        let first = &info[kind][0];
        is_mount_point(first["fsId"]["mountpoint"].as_str().unwrap_or_default())?;
        let used = number(&first["usedBytes"]["value"]);
        ensure!(used >= least, "{kind}: {used} bytes");
        let inodes = number(&first["inodesUsed"]["value"]);
        ensure!(inodes > 0, "{kind}: {inodes} inodes");
    }
    Ok(())
}

fn is_mount_point(path: &str) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
    let found = table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path));
    ensure!(found, "nothing is mounted on {path:?}");
    Ok(())
}
