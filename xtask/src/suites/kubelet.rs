//! The real kubelet, without an API server, against a private daemon: static pods that use what a
//! kubelet can ask of a runtime, and what happens to them when daemon, kubelet or node go away.

mod beside;
mod manifest;
mod measure;
mod pod;
mod process;
mod scenarios;
mod session;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::command::retry;
use crate::outcome::Tally;
use measure::start_and_end;
use process::Settings;
use scenarios::{ALL, FAREWELLS, Scenario};
use session::{Runtime, Session};

pub use beside::run as compare;

/// Far more than any pod needs on a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Init containers of the steady pods.
const INIT: [&str; 3] = ["ordered/first", "ordered/side", "ordered/second"];
/// Pods that are measured one after the other.
const MEASURED: usize = 3;

type Phase = fn(&mut Session) -> Result<()>;

/// What happens to the pods, in this order; each leaves the steady ones ready.
const PHASES: &[(&str, Phase)] = &[
    (
        "pods outlive a killed daemon, and one that came meanwhile starts",
        daemon_is_killed,
    ),
    (
        "pods outlive a restarted kubelet, and it collects unused images",
        kubelet_is_restarted,
    ),
    (
        "pods start and end by the runtime's events alone",
        events_suffice,
    ),
    (
        "pods come back after a reboot of the node",
        node_is_rebooted,
    ),
];

pub fn run() -> Result<Tally> {
    println!("kubelet");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("kubelet suite", "needs root");
        return Ok(tally);
    }
    let mut session = Session::begin(Runtime::Berth)?;
    tally.check("a pod becomes ready and goes", measured(&mut session));
    for scenario in ALL {
        session.put(scenario.pod, &(scenario.manifest)(&session))?;
    }
    // They run side by side: what one waits for, the others have had, too.
    let deadline = Instant::now() + PATIENCE;
    for scenario in ALL {
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome = retry(left, || (scenario.check)(&mut session));
        tally.check(scenario.name, outcome);
    }
    if tally.failed == 0 {
        for (name, phase) in PHASES {
            tally.check(name, phase(&mut session));
        }
    }
    for scenario in ALL {
        session.take_away(scenario.pod)?;
    }
    for (name, check) in FAREWELLS {
        tally.check(name, retry(PATIENCE, || check(&mut session)));
    }
    let logs = session.logs();
    tally.check("nothing is left behind", session.end());
    if tally.failed > 0 {
        println!("  logs: {logs}");
    }
    Ok(tally)
}

fn steady() -> Vec<&'static str> {
    let steady = ALL.iter().filter(|scenario| scenario.steady);
    steady.map(|Scenario { pod, .. }| *pod).collect()
}

fn measured(session: &mut Session) -> Result<()> {
    for number in 0..MEASURED {
        let name = format!("measured-{number}");
        println!("  note    {name}: {}", start_and_end(session, &name)?);
    }
    Ok(())
}

fn daemon_is_killed(session: &mut Session) -> Result<()> {
    let before = retry(PATIENCE, || session.containers(&steady()))?;
    session.kill_daemon()?;
    let container = manifest::container(session, "main", manifest::STAY, json!({}));
    let pod = manifest::pod(session, "meanwhile", json!({ "containers": [container] }));
    session.put("meanwhile", &pod)?;
    // The kubelet is to notice.
    std::thread::sleep(Duration::from_secs(2));
    session.start_daemon()?;
    retry(PATIENCE, || session.ready("meanwhile"))?;
    session.take_away("meanwhile")?;
    untouched(session, &before)
}

fn kubelet_is_restarted(session: &mut Session) -> Result<()> {
    let before = retry(PATIENCE, || session.containers(&steady()))?;
    let unused = session.image("unused");
    ensure!(has_image(session, &unused)?, "{unused} is not there");
    session.stop_kubelet()?;
    session.start_kubelet(Settings {
        short_of_disk: true,
        ..Settings::default()
    })?;
    retry(PATIENCE, || {
        ensure!(!has_image(session, &unused)?, "{unused} is still there");
        Ok(())
    })?;
    let used = session.image("busybox");
    ensure!(has_image(session, &used)?, "{used} was collected");
    untouched(session, &before)
}

/// A kubelet that listens to events and relists only every few minutes.
fn events_suffice(session: &mut Session) -> Result<()> {
    let before = retry(PATIENCE, || session.containers(&steady()))?;
    session.stop_kubelet()?;
    session.start_kubelet(Settings {
        evented: true,
        ..Settings::default()
    })?;
    untouched(session, &before)?;
    println!("  note    evented: {}", start_and_end(session, "evented")?);
    ensure!(
        session.kubelet()?.event_connections()? > 0.0,
        "the kubelet did not listen to events"
    );
    untouched(session, &before)
}

fn has_image(session: &mut Session, name: &str) -> Result<bool> {
    let images = session.cri.images().context("ListImages")?;
    Ok(images
        .iter()
        .any(|image| image.repo_tags.iter().any(|tag| tag == name)))
}

/// The same containers, as often restarted as before.
fn untouched(
    session: &mut Session,
    before: &std::collections::BTreeMap<String, (String, u64)>,
) -> Result<()> {
    let now = retry(PATIENCE, || session.containers(&steady()))?;
    ensure!(now == *before, "not as before: {before:?}, now {now:?}");
    Ok(())
}

/// New containers, each counted as one restart more.
fn node_is_rebooted(session: &mut Session) -> Result<()> {
    let before = retry(PATIENCE, || session.containers(&steady()))?;
    session.reboot()?;
    let begin = Instant::now();
    let after = retry(PATIENCE, || {
        let now = session.containers(&steady())?;
        let stale = now.iter().find(|(name, (id, _))| before[*name].0 == *id);
        ensure!(stale.is_none(), "an old container: {stale:?}");
        Ok(now)
    })?;
    println!(
        "  note    {} pods were ready again {:.1} s after a reboot",
        steady().len(),
        begin.elapsed().as_secs_f64()
    );
    // A new sandbox makes the kubelet remove all init containers of the pod with their logs
    // (kuberuntime's purgeInitContainers), and whether it still knows of one when it starts the
    // next depends on when it listed last. Only of the others is the count certain.
    let (init, main): (Vec<_>, Vec<_>) = after
        .iter()
        .partition(|(name, _)| INIT.contains(&name.as_str()));
    for (name, (_, restarts)) in main {
        let expected = before[name].1 + 1;
        ensure!(
            *restarts == expected,
            "{name}: {restarts} restarts instead of {expected}"
        );
    }
    for (name, (_, restarts)) in init {
        let expected = before[name].1 + 1;
        ensure!(
            [0, expected].contains(restarts),
            "{name}: {restarts} restarts instead of {expected} or a count begun anew"
        );
    }
    Ok(())
}
