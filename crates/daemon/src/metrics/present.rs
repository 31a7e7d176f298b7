//! What is there at the moment of the question.

use std::fmt;
use std::fs;

use berth_lifecycle::Runtime;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

pub struct Present {
    runtime: Runtime,
}

impl Present {
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime }
    }
}

impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Present")
    }
}

impl Collector for Present {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let census = self.runtime.census();
        let pods = [
            ("ready", census.pods_ready),
            ("not_ready", census.pods_not_ready),
        ];
        let containers = [
            ("created", census.created),
            ("running", census.running),
            ("exited", census.exited),
        ];
        by_state(&mut encoder, "pods", "Pods by state", &pods)?;
        by_state(
            &mut encoder,
            "containers",
            "Containers by state",
            &containers,
        )?;
        gauge(
            &mut encoder,
            "shims",
            "Shims that run, those of pods' inits included",
            census.shims,
        )?;
        gauge(
            &mut encoder,
            "resident_memory_bytes",
            "Memory of the daemon itself",
            resident(),
        )?;
        gauge(
            &mut encoder,
            "open_files",
            "Descriptors of the daemon itself",
            open_files(),
        )
    }
}

fn by_state(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    counts: &[(&'static str, u64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (state, count) in counts {
        let value = ConstGauge::new(signed(*count));
        value.encode(family.encode_family(&[("state", *state)])?)?;
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let value = ConstGauge::new(signed(value));
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    value.encode(metric)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Second field of `statm`, in pages.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}
