//! How long lists take with thousands of records, while another client starts pods.
//!
//! The records are those of real pods on the host's network that were stopped, with a container each
//! that was created. The daemon is started anew before anything is measured: it takes them over, as
//! after any restart.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::NamespaceMode;
use serde_json::{Value, json};

use super::{load, machine, raw};
use crate::cri::{self, Cri};
use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::workspace;

const CALLS: usize = 500;
const PAUSE: Duration = Duration::from_millis(10);
const METHODS: [&str; 2] = ["ListContainers", "ListPodSandbox"];

pub fn run(records: &str, released: bool) -> Result<()> {
    let records: usize = records
        .parse()
        .with_context(|| format!("number of records {records}"))?;
    let programs = super::programs(released)?;
    let place = Place::as_on_a_node()?;
    let registry = Registry::start(&place.scratch())?;
    let image = load::publish_small(&registry)?;
    let log = workspace::logs()?.join("bench-lists-berthd.log");
    let _fresh = fs::remove_file(&log);

    let daemon = Daemon::start_from(&programs, &place, &log)?;
    let mut client = Cri::connect(&place.socket())?;
    client.pull(&image).context("PullImage")?;
    let pods: Vec<String> = (0..records)
        .map(|number| one_more(&mut client, &image, &place, number))
        .collect::<Result<_>>()?;
    daemon.stop()?;
    let daemon = Daemon::start_from(&programs, &place, &log)?;
    let listed = Cri::connect(&place.socket())?.containers()?.len();
    ensure!(listed == records, "{listed} containers are listed");

    let mut client = raw::Client::connect(&place.socket())?;
    let quiet = measure(&mut client)?;
    let (busy, started) = beside_pods(&place, &image, || measure(&mut client))?;
    let pid = i32::try_from(daemon.pid()).context("pid of berthd")?;
    let resident = machine::resident(pid)?;
    let mut client = Cri::connect(&place.socket())?;
    for pod in &pods {
        client.remove_pod(pod).context("RemovePodSandbox")?;
    }
    daemon.stop()?;
    place.bridge().remove()?;

    for (name, figures) in [("quiet", &quiet), ("while pods start", &busy)] {
        for (method, taken) in METHODS.iter().zip(figures) {
            println!(
                "{method}, {name}: p50 {:.2} p90 {:.2} p99 {:.2} max {:.2} ms, {} KiB",
                taken.quantile(50),
                taken.quantile(90),
                taken.quantile(99),
                taken.quantile(100),
                taken.bytes / 1024,
            );
        }
    }
    println!("{started} pods were started meanwhile; the daemon takes {resident} KiB");
    let report = json!({
        "machine": machine::describe(), "records": records, "released": released,
        "quiet_ms": figures_json(&quiet), "while_pods_start_ms": figures_json(&busy),
        "pods_started": started, "daemon_resident_kib": resident,
    });
    let path = workspace::artefacts().join("bench-lists.json");
    let text = serde_json::to_string_pretty(&report).context("encoding the figures")?;
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// A stopped pod and its container as a kubelet labels them. Answers with the pod's id.
fn one_more(client: &mut Cri, image: &str, place: &Place, number: usize) -> Result<String> {
    let name = format!("record-{number}");
    let logs = place.pod_logs();
    let (mut pod_config, mut config) = load::requests(&name, image, &logs, NamespaceMode::Node);
    for key in ["container.name", "pod.name", "pod.namespace", "pod.uid"] {
        let label = (
            format!("io.kubernetes.{key}"),
            "a-name-of-usual-length".into(),
        );
        config.labels.extend([label.clone()]);
        pod_config.labels.extend([label]);
    }
    for key in ["hash", "restartCount", "terminationMessagePath", "ports"] {
        let note = (
            format!("io.kubernetes.container.{key}"),
            "5f4dcc3b5aa765".into(),
        );
        config.annotations.extend([note.clone()]);
        pod_config.annotations.extend([note]);
    }
    let pod = client.run_pod(&pod_config).context("RunPodSandbox")?;
    client
        .create(&pod, &pod_config, &config)
        .context("CreateContainer")?;
    client.stop_pod(&pod).context("StopPodSandbox")?;
    Ok(pod)
}

/// Milliseconds, sorted.
struct Taken {
    millis: Vec<f64>,
    bytes: usize,
}

impl Taken {
    /// By nearest rank.
    fn quantile(&self, percent: usize) -> f64 {
        let rank = (self.millis.len() * percent).div_ceil(100);
        self.millis
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

fn measure(client: &mut raw::Client) -> Result<Vec<Taken>> {
    METHODS
        .iter()
        .map(|method| {
            let mut taken = Taken {
                millis: Vec::with_capacity(CALLS),
                bytes: 0,
            };
            for _ in 0..CALLS {
                let (time, bytes) = client.call(method)?;
                taken.millis.push(time.as_secs_f64() * 1000.0);
                taken.bytes = bytes;
                thread::sleep(PAUSE);
            }
            taken.millis.sort_by(f64::total_cmp);
            Ok(taken)
        })
        .collect()
}

/// Measures while a client of its own starts and removes pods, and tells how many.
fn beside_pods<T>(
    place: &Place,
    image: &str,
    measure: impl FnOnce() -> Result<T>,
) -> Result<(T, usize)> {
    let enough = Arc::new(AtomicBool::new(false));
    let mut client = Cri::connect(&place.socket())?;
    let (stop, image, logs) = (Arc::clone(&enough), image.to_owned(), place.pod_logs());
    let starting = thread::spawn(move || -> Result<usize> {
        let mut started = 0;
        while !stop.load(Ordering::Relaxed) {
            let pod_config = cri::pod(&format!("beside-{started}"), "", &logs);
            let config = cri::container("main", &image, &["sleep", "1000"]);
            let pod = client.run_pod(&pod_config).context("RunPodSandbox")?;
            let container = client.create(&pod, &pod_config, &config)?;
            client.start(&container)?;
            client.stop(&container, 0)?;
            client.stop_pod(&pod)?;
            client.remove_pod(&pod)?;
            started += 1;
        }
        Ok(started)
    });
    let measured = measure();
    enough.store(true, Ordering::Relaxed);
    let joined = starting.join();
    let started = joined.map_err(|_| anyhow::anyhow!("the other client panicked"))??;
    Ok((measured?, started))
}

fn figures_json(figures: &[Taken]) -> Value {
    let all = METHODS.iter().zip(figures).map(|(method, taken)| {
        let quantile = |percent| taken.quantile(percent);
        let entry = json!({
            "p50": quantile(50), "p90": quantile(90), "p99": quantile(99), "max": quantile(100),
            "bytes": taken.bytes, "values": taken.millis,
        });
        ((*method).to_owned(), entry)
    });
    Value::Object(all.collect())
}
