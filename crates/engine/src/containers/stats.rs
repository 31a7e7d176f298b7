//! `GET /containers/{name}/stats`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use berth_lifecycle::{Depth, PodSample};
use berth_standalone::Container;
use bytes::Bytes;
use futures::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use super::describe::time;
use crate::{Engine, Json, Query, Result};

/// Between two samples of a stream.
const EVERY: Duration = Duration::from_secs(1);
/// `USER_HZ`, which /proc/stat counts in, as nanoseconds.
const TICK: u64 = 10_000_000;

pub async fn stats(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response> {
    let container = engine.containers.get(&name)?;
    if !query.flag_or("stream", true) {
        let first = match query.flag("one-shot") {
            true => json!({}),
            false => {
                let first = sample(&engine, &container).await;
                tokio::time::sleep(EVERY).await;
                first
            }
        };
        let last = after(sample(&engine, &container).await, &first);
        return Ok(Json(last).into_response());
    }
    let body = stream::unfold(
        (engine, container, None),
        |(engine, container, last)| async move {
            if last.is_some() {
                tokio::time::sleep(EVERY).await;
            }
            // A container that is removed ends the stream.
            engine.containers.get(container.view().id.as_str()).ok()?;
            let now = sample(&engine, &container).await;
            let told = after(now.clone(), last.as_ref().unwrap_or(&Value::Null));
            let line = Bytes::from(told.to_string() + "\n");
            Some((
                Ok::<_, std::convert::Infallible>(line),
                (engine, container, Some(now)),
            ))
        },
    );
    let mut response = Response::new(Body::from_stream(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

/// Clients compute shares of the processor from two samples.
fn after(mut now: Value, before: &Value) -> Value {
    now["precpu_stats"] = match before.get("cpu_stats") {
        Some(cpu) => cpu.clone(),
        None => json!({ "cpu_usage": { "total_usage": 0 } }),
    };
    let read = before.get("read").cloned();
    now["preread"] = read.unwrap_or_else(|| json!(time(0)));
    now
}

/// One that does not run uses nothing.
async fn sample(engine: &Engine, container: &Container) -> Value {
    let record = container.view();
    let mut told = json!({
        "name": format!("/{}", record.name),
        "id": record.id.to_string(),
        "read": time(0),
        "num_procs": 0,
        "storage_stats": {},
    });
    let Some(sampled) = look(engine, container).await else {
        let empty = json!({});
        for field in ["pids_stats", "blkio_stats", "memory_stats"] {
            told[field] = empty.clone();
        }
        told["cpu_stats"] = json!({ "cpu_usage": { "total_usage": 0 } });
        return told;
    };
    told["read"] = json!(time(berth_lifecycle::record::now()));
    told["networks"] = networks(&sampled);
    let cgroup = sampled
        .containers
        .first()
        .and_then(|one| one.cgroup.as_ref());
    if let Some(cgroup) = cgroup {
        let (cpu, memory, pids) = (&cgroup.cpu, &cgroup.memory, &cgroup.pids);
        let online = std::thread::available_parallelism().map_or(1, usize::from);
        told["pids_stats"] = json!({ "current": pids.current, "limit": pids.limit });
        told["cpu_stats"] = json!({
            "cpu_usage": {
                "total_usage": cpu.usage_ns,
                "usage_in_kernelmode": cpu.system_ns,
                "usage_in_usermode": cpu.user_ns,
            },
            "system_cpu_usage": system_usage(),
            "online_cpus": online,
            "throttling_data": {
                "periods": cpu.periods,
                "throttled_periods": cpu.throttled_periods,
                "throttled_time": cpu.throttled_ns,
            },
        });
        told["memory_stats"] = json!({
            "usage": memory.usage,
            "limit": memory.limit.unwrap_or_else(host_memory),
            "stats": {
                "active_file": memory.active_file,
                "inactive_file": memory.inactive_file,
                "total_inactive_file": memory.inactive_file,
                "pgfault": memory.page_faults,
                "pgmajfault": memory.major_page_faults,
            },
        });
        let bytes = cgroup.io.iter().flat_map(|device| {
            let entry = |op: &str, value: u64| {
                json!({"major": device.major, "minor": device.minor, "op": op, "value": value})
            };
            [entry("read", device.read_bytes), entry("write", device.write_bytes)]
        });
        told["blkio_stats"] = json!({ "io_service_bytes_recursive": bytes.collect::<Vec<_>>() });
    }
    told
}

async fn look(engine: &Engine, container: &Container) -> Option<PodSample> {
    let run = container.running().ok()?;
    let pod = engine.runtime.pod(run.view().pod.as_str()).ok()?;
    let mut sampled = engine
        .runtime
        .pods_stats(vec![pod], Depth::Statistics)
        .await
        .ok()?;
    sampled.pop()
}

fn networks(sample: &PodSample) -> Value {
    let mut all = Map::new();
    for interface in &sample.interfaces {
        let counters = &interface.counters;
        let told = json!({
            "rx_bytes": counters.rx_bytes, "rx_packets": counters.rx_packets,
            "rx_errors": counters.rx_errors, "rx_dropped": counters.rx_dropped,
            "tx_bytes": counters.tx_bytes, "tx_packets": counters.tx_packets,
            "tx_errors": counters.tx_errors, "tx_dropped": counters.tx_dropped,
        });
        all.insert(interface.name.clone(), told);
    }
    Value::Object(all)
}

/// Nanoseconds that all processors have counted, idle or not.
fn system_usage() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let numbers = line.split_whitespace().skip(1).take(8);
    let ticks: u64 = numbers
        .filter_map(|number| number.parse::<u64>().ok())
        .sum();
    ticks.saturating_mul(TICK)
}

fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
