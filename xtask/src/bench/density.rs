//! What many pods cost that run at once: memory for each, and the time of calls beside them.
//!
//! A few pods run first, as on a node that has just begun; then all. When all are gone, what is left
//! of them is an error.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::crowd::{self, Made, Scene};
use super::figures::Figures;
use super::machine;
use crate::cgroup_parent::CgroupParent;
use crate::cri::Cri;
use crate::daemon::Daemon;
use crate::place::Place;
use crate::suites::node::inventory::Inventory;
use crate::workspace;

/// With how many pods the others are compared.
const FEW: usize = 20;
const READS: usize = 60;
const PAUSE: Duration = Duration::from_millis(5);
/// What was freed with a delay is free then.
const REST: Duration = Duration::from_secs(3);

const LIST: &str = "ListContainers";
const LIST_PODS: &str = "ListPodSandbox";
const STATUS: &str = "ContainerStatus";
const EXEC: &str = "ExecSync /bin/true";

/// With so many pods.
struct Look {
    pods: usize,
    figures: Figures,
    daemon: u64,
    shim: u64,
    kernel: u64,
}

pub fn run(pods: &str, released: bool) -> Result<()> {
    let pods: usize = pods
        .parse()
        .with_context(|| format!("number of pods {pods}"))?;
    ensure!(
        pods > FEW,
        "{FEW} pods are what the others are compared with"
    );
    let (scene, daemon) = Scene::make("bench-density", released)?;
    let place = &scene.place;
    let parent = CgroupParent::new("density");
    parent.make()?;
    let start = |first, end| crowd::start(place, &scene.image, Some(&parent), first, end);

    // What is opened once and kept is open after one.
    crowd::remove(place, &start(0, 1)?)?;
    thread::sleep(REST);
    let before = Inventory::of(place, &parent, daemon.pid())?.allowing(FEW);
    let empty = kernel_memory()?;
    let mut made = start(0, FEW)?;
    let few = look(place, &daemon, &made, empty)?;
    let begin = Instant::now();
    made.extend(start(FEW, pods)?);
    let started = begin.elapsed().as_secs_f64();
    let all = look(place, &daemon, &made, empty)?;
    let begin = Instant::now();
    crowd::remove(place, &made)?;
    let removed = begin.elapsed().as_secs_f64();
    before.restored_in(|| Inventory::of(place, &parent, daemon.pid()))?;

    tell(&few, &all);
    println!(
        "{} pods started in {started:.1} s, and all were removed in {removed:.1} s; nothing is left",
        pods - FEW
    );
    let report = json!({
        "machine": machine::describe(), "released": released,
        "started_seconds": started, "removed_seconds": removed,
        "runtimes": { few.name(): few.report(), all.name(): all.report() },
    });
    let path = workspace::artefacts().join("bench-density.json");
    let text = serde_json::to_string_pretty(&report).context("encoding the figures")?;
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    parent.clear()?;
    daemon.stop()?;
    place.bridge().remove()
}

fn look(place: &Place, daemon: &Daemon, made: &[Made], empty: u64) -> Result<Look> {
    thread::sleep(REST);
    let mut cri = Cri::connect(&place.socket())?;
    let container = &made.last().context("no pods")?.1;
    let mut figures = Figures::default();
    for _ in 0..READS {
        let mut timed = |name, call: &mut dyn FnMut(&mut Cri) -> Result<()>| -> Result<()> {
            thread::sleep(PAUSE);
            let begin = Instant::now();
            call(&mut cri).context(name)?;
            figures.add(name, begin.elapsed().as_secs_f64() * 1000.0);
            Ok(())
        };
        timed(LIST, &mut |cri| {
            cri.containers().map(drop).map_err(Into::into)
        })?;
        timed(LIST_PODS, &mut |cri| {
            cri.pods().map(drop).map_err(Into::into)
        })?;
        timed(STATUS, &mut |cri| {
            cri.status(container).map(drop).map_err(Into::into)
        })?;
        timed(EXEC, &mut |cri| {
            cri.exec(container, &["true"]).map(drop).map_err(Into::into)
        })?;
    }
    let mut shims = BTreeSet::new();
    for (_, container) in made {
        shims.insert(machine::parent(cri.pid(container)?)?);
    }
    ensure!(shims.len() == made.len(), "a shim for each is expected");
    let shares: u64 = shims
        .iter()
        .map(|pid| machine::share(*pid))
        .sum::<Result<_>>()?;
    let count = u64::try_from(made.len()).context("number of pods")?;
    let pid = i32::try_from(daemon.pid()).context("pid of berthd")?;
    Ok(Look {
        pods: made.len(),
        figures,
        daemon: machine::resident(pid)?,
        shim: shares / count,
        kernel: kernel_memory()?.saturating_sub(empty) / count,
    })
}

/// What the kernel itself uses, in KiB: slabs, stacks, page tables, and what it has for each
/// processor.
fn kernel_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let of = |key: &str| machine::field(&text, key).with_context(|| format!("no {key}"));
    Ok(of("SUnreclaim:")? + of("KernelStack:")? + of("PageTables:")? + of("Percpu:")?)
}

impl Look {
    fn name(&self) -> String {
        format!("{} pods", self.pods)
    }

    fn report(&self) -> Value {
        let calls = [LIST, LIST_PODS, STATUS, EXEC];
        let mut figures: serde_json::Map<String, Value> = calls
            .iter()
            .map(|call| ((*call).to_owned(), self.figures.of(call, "ms")))
            .collect();
        for (name, value) in self.memory() {
            let value = json!({ "unit": "KiB", "p50": value, "p90": value });
            figures.insert(name.to_owned(), value);
        }
        json!({ "figures": figures })
    }

    fn memory(&self) -> [(&'static str, u64); 3] {
        [
            ("daemon RSS", self.daemon),
            ("shim PSS, each", self.shim),
            ("kernel memory, each", self.kernel),
        ]
    }
}

fn tell(few: &Look, all: &Look) {
    println!("{:<24}{:>14}{:>14}", "", few.name(), all.name());
    for call in [LIST, LIST_PODS, STATUS, EXEC] {
        let p50 = |look: &Look| look.figures.quantile(call, 50).unwrap_or(f64::NAN);
        println!("{:<24}{:>11.2} ms{:>11.2} ms", call, p50(few), p50(all));
    }
    for ((name, few), (_, all)) in few.memory().into_iter().zip(all.memory()) {
        println!("{name:<24}{few:>10} KiB{all:>10} KiB");
    }
}
