//! Measures a shim binary with real containers, as root:
//!
//! ```text
//! cargo run -p containerd-shim-berth-v1 --example measure -- <shim binary> [rounds]
//! ```
//!
//! Prints one line of JSON: milliseconds (median, 90th percentile) of each call
//! and the memory of an idle shim that runs a container, in KiB.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed step ends the measurement

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_shim_client::{Launcher, Shim, Stdio};

#[path = "../tests/bundle/mod.rs"]
mod bundle;

use bundle::{Bundle, sh};

/// Between rounds, so that what the kernel does behind is not measured.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Times(BTreeMap<&'static str, Vec<f64>>);

impl Times {
    async fn of<T>(&mut self, what: &'static str, call: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let answer = call.await;
        let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
        self.0.entry(what).or_default().push(milliseconds);
        answer
    }

    fn summary(&self) -> serde_json::Value {
        let entries = self.0.iter().map(|(what, times)| {
            let mut times = times.clone();
            times.sort_by(f64::total_cmp);
            let at = |share: f64| {
                let index = ((times.len() - 1) as f64 * share).round() as usize;
                (times[index] * 1000.0).round() / 1000.0
            };
            ((*what).to_owned(), serde_json::json!([at(0.5), at(0.9)]))
        });
        serde_json::Value::Object(entries.collect())
    }
}

fn memory(pid: u32) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let wanted = ["Rss", "Pss", "Pss_Anon", "Pss_File", "Private_Dirty"];
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let kib = value.split_whitespace().next()?.parse().ok()?;
            wanted.contains(&name).then(|| (name.to_owned(), kib))
        })
        .collect()
}

async fn round(launcher: &Launcher, bundle: &Bundle, times: &mut Times) -> Shim {
    let launch = launcher.launch(&bundle.id, bundle.dir.path());
    let shim = times.of("launch", launch).await.unwrap();
    times
        .of("first call", shim.pids_of_shim_and_init())
        .await
        .unwrap();
    times
        .of("create", shim.create(&[], &bundle.log()))
        .await
        .unwrap();
    times.of("start", shim.start(None)).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(PAUSE).await;
        let whole = Instant::now();
        shim.exec("e", &sh("exit 0"), &Stdio::default())
            .await
            .unwrap();
        times.of("exec start", shim.start(Some("e"))).await.unwrap();
        shim.wait(Some("e")).await.unwrap();
        let milliseconds = whole.elapsed().as_secs_f64() * 1000.0;
        times
            .0
            .entry("exec until exit")
            .or_default()
            .push(milliseconds);
        shim.delete(Some("e")).await.unwrap();
    }
    times.of("state", shim.state(None)).await.unwrap();
    shim
}

async fn end(shim: Shim, times: &mut Times) {
    shim.kill(None, 9, false).await.unwrap();
    times.of("kill until wait", shim.wait(None)).await.unwrap();
    times.of("delete", shim.delete(None)).await.unwrap();
    shim.shutdown().await.unwrap();
    times.of("shutdown until gone", shim.gone()).await;
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let binary = args.next().expect("a shim binary");
    let rounds: usize = args.next().map_or(20, |rounds| rounds.parse().unwrap());
    let launcher = Launcher::new(Path::new(&binary)).unwrap();
    let mut times = Times::default();
    let mut first = None;
    for _ in 0..rounds {
        let bundle = Bundle::new("measure", "exec sleep 1000", |_| {});
        let shim = round(&launcher, &bundle, &mut times).await;
        tokio::time::sleep(PAUSE).await;
        first.get_or_insert_with(|| memory(shim.launched_pid().unwrap()));
        end(shim, &mut times).await;
    }
    let mut crowd = Vec::new();
    for number in 0..10 {
        let bundle = Bundle::new(&format!("measure-{number}"), "exec sleep 1000", |_| {});
        let shim = round(&launcher, &bundle, &mut Times::default()).await;
        crowd.push((shim, bundle));
    }
    let ten: Vec<u64> = crowd
        .iter()
        .map(|(shim, _)| memory(shim.launched_pid().unwrap())["Pss"])
        .collect();
    for (shim, _) in crowd.iter() {
        end(shim.clone(), &mut Times::default()).await;
    }
    let report = serde_json::json!({
        "sealed": launcher.is_sealed(),
        "ms": times.summary(),
        "one_idle_shim_kib": first,
        "pss_kib_of_each_of_ten": ten,
    });
    println!("{report}");
}
