//! How soon a daemon that was killed serves again, with pods that run meanwhile.
//!
//! "Serves" is what a kubelet waits for: the daemon answers, lists every pod as ready and every
//! container as running, and a command can be run in one.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::{ContainerState, PodSandboxState};
use serde_json::json;

use super::crowd::{self, Scene};
use super::machine;
use crate::cri::Cri;
use crate::place::Place;
use crate::workspace;

const ROUNDS: usize = 5;
/// Longer than anybody would wait.
const LIMIT: Duration = Duration::from_secs(60);

/// Milliseconds from the start of the process.
struct Round {
    answers: f64,
    lists: f64,
    execs: f64,
}

pub fn run(pods: &str, released: bool) -> Result<()> {
    let pods: usize = pods
        .parse()
        .with_context(|| format!("number of pods {pods}"))?;
    let (scene, mut daemon) = Scene::make("bench-restart", released)?;
    let place = &scene.place;

    println!("starting {pods} pods");
    let made = crowd::start(place, &scene.image, None, 0, pods)?;
    let one = made.first().context("no pods")?.1.clone();
    let mut rounds = Vec::new();
    for number in 1..=ROUNDS {
        thread::sleep(Duration::from_secs(1));
        daemon.kill()?;
        let begin = Instant::now();
        daemon = scene.daemon()?;
        let round = until_served(place, begin, pods, &one)?;
        println!(
            "round {number}: answers after {:.0}, lists all after {:.0}, runs commands after {:.0} ms",
            round.answers, round.lists, round.execs
        );
        rounds.push(round);
    }
    let pid = i32::try_from(daemon.pid()).context("pid of berthd")?;
    let resident = machine::resident(pid)?;
    let slowest = rounds.iter().map(|round| round.execs).fold(0.0, f64::max);
    println!(
        "{pods} pods: the slowest of {ROUNDS} took {slowest:.0} ms; berthd takes {resident} KiB"
    );
    let figures = |of: fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
    let report = json!({
        "machine": machine::describe(), "pods": pods, "released": released,
        "answers_ms": figures(|r| r.answers), "lists_all_ms": figures(|r| r.lists),
        "runs_commands_ms": figures(|r| r.execs), "daemon_resident_kib": resident,
    });
    let path = workspace::artefacts().join(format!("bench-restart-{pods}.json"));
    let text = serde_json::to_string_pretty(&report).context("encoding the figures")?;
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;

    crowd::remove(place, &made)?;
    daemon.stop()?;
    place.bridge().remove()
}

fn until_served(place: &Place, begin: Instant, pods: usize, one: &str) -> Result<Round> {
    let millis = || begin.elapsed().as_secs_f64() * 1000.0;
    let mut cri = Cri::connect(&place.socket())?;
    cri.version().context("Version")?;
    let answers = millis();
    loop {
        let ready = cri.pods().context("ListPodSandbox")?;
        let ready = ready
            .iter()
            .filter(|pod| pod.state() == PodSandboxState::SandboxReady)
            .count();
        let running = cri.containers().context("ListContainers")?;
        let running = running
            .iter()
            .filter(|container| container.state() == ContainerState::ContainerRunning)
            .count();
        if ready == pods && running == pods {
            break;
        }
        ensure!(
            begin.elapsed() < LIMIT,
            "{ready} pods are ready and {running} containers run"
        );
        thread::sleep(Duration::from_millis(5));
    }
    let lists = millis();
    let said = cri.exec(one, &["true"]).context("ExecSync")?;
    ensure!(
        said.exit_code == 0,
        "the command ended with {}",
        said.exit_code
    );
    Ok(Round {
        answers,
        lists,
        execs: millis(),
    })
}
