//! critest, the conformance suite of the CRI, against a private daemon.

mod images;
mod report;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::{end, wait};
use crate::daemon::Daemon;
use crate::outcome::Tally;
use crate::place::Place;
use crate::registry::Registry;
use crate::tools::{self, Tool};
use crate::workspace;
use report::{Report, Verdict};

/// Fewer passes mean that features went missing without a failure: critest
/// skips what a runtime does not announce.
const LEAST_PASSES: usize = 75;

/// All specs take two minutes; a hanging one has its own limits of up to five.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// The specs that have a transport, and the flags that choose the other one.
const STREAMS: &str = "runtime should support streaming interfaces";
const WEBSOCKETS: &[&str] = &[
    "--websocket-exec",
    "--websocket-attach",
    "--websocket-portforward",
];

/// Ports of the host that specs publish.
const PORTS: std::ops::RangeInclusive<u16> = 12000..=12003;

/// Runs all specs, or those that match `focus`, and judges them by the lists of
/// `integration/critest`.
pub fn run(focus: Option<&str>) -> Result<Tally> {
    println!("critest");
    let mut tally = Tally::default();
    if let Some(reason) = unfit() {
        tally.skip("critest", &reason);
        return Ok(tally);
    }
    let place = Place::new()?;
    let registry = Registry::start(&place.scratch())?;
    images::publish(registry.remote())?;
    for name in images::REGISTRIES {
        place.mirror(name, registry.address())?;
    }
    let logs = workspace::logs()?;
    let daemon_log = logs.join("critest-berthd.log");
    let _fresh = fs::remove_file(&daemon_log);
    let daemon = Daemon::start(&place, &daemon_log)?;

    let judge = |report: Report| -> Result<Verdict> {
        let failures = known("expected-failures.txt")?;
        let skips = known("expected-skips.txt")?;
        let verdict = report.judge(&failures, &skips);
        print_verdict(&verdict);
        Ok(verdict)
    };
    let verdict = judge(drive(&daemon, &place, &logs, focus, &[])?)?;
    tally += verdict.tally;
    if focus.is_none() {
        println!("  the streams once more, over websockets");
        let streams = drive(&daemon, &place, &logs, Some(STREAMS), WEBSOCKETS)?;
        tally += judge(streams)?.tally;
        tally.check(
            &format!("at least {LEAST_PASSES} specs pass"),
            enough(&verdict),
        );
    }
    if tally.failed > 0 {
        println!("  logs: {}", logs.display());
    }
    daemon.stop()?;
    tally.check("no network is left behind", place.bridge().remove());
    Ok(tally)
}

/// Makes the images, pushes them, and shows what a runtime could pull now.
pub fn show_images(serve: bool) -> Result<()> {
    let place = Place::new()?;
    let registry = Registry::start(&place.scratch())?;
    for published in images::publish(registry.remote())? {
        let stored = registry.remote().manifest(
            &published.repository,
            published.image.manifest_digest.as_str(),
        )?;
        anyhow::ensure!(
            stored == published.image.manifest,
            "{} changed",
            published.repository
        );
        for tag in published.tags {
            let digest = &published.image.manifest_digest;
            println!(
                "{}/{}:{tag} {digest}",
                registry.address(),
                published.repository
            );
        }
    }
    if serve {
        for name in images::REGISTRIES {
            place.mirror(name, registry.address())?;
        }
        println!("hosts.toml files: {}", place.hosts().display());
        println!("serving until standard input ends");
        std::io::stdin()
            .read_to_end(&mut Vec::new())
            .context("reading standard input")?;
    }
    Ok(())
}

/// Why critest cannot run on this machine now.
fn unfit() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let taken = PORTS
        .into_iter()
        .find(|port| TcpListener::bind(("0.0.0.0", *port)).is_err())?;
    Some(format!("needs port {taken}, which is in use"))
}

fn drive(
    daemon: &Daemon,
    place: &Place,
    logs: &Path,
    focus: Option<&str>,
    flags: &[&str],
) -> Result<Report> {
    let json = place.scratch().join("report.json");
    let log = logs.join(match flags {
        [] => "critest.log",
        _ => "critest-websocket.log",
    });
    let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let endpoint = daemon.endpoint();
    let mut command = Command::new(tools::path(Tool::Critest)?);
    command
        .current_dir(place.scratch())
        .arg(format!("--runtime-endpoint={endpoint}"))
        .arg(format!("--image-endpoint={endpoint}"))
        .arg(format!("--ginkgo.json-report={}", json.display()))
        .args(["--ginkgo.no-color", "--ginkgo.v"])
        .args(flags)
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("sharing the log of critest")?)
        .stderr(output);
    if let Some(focus) = focus {
        command.arg(format!("--ginkgo.focus={focus}"));
    }
    let mut critest = command.spawn().context("starting critest")?;
    if wait(&mut critest, LIMIT)?.is_none() {
        // It writes its report when it is asked to end.
        end(&mut critest, Duration::from_secs(120))?;
        println!("  critest did not end in {} minutes", LIMIT.as_secs() / 60);
    }
    let text = fs::read_to_string(&json)
        .with_context(|| format!("critest left no report, see {}", log.display()))?;
    Report::parse(&text)
}

/// Names of a list in `integration/critest`; comments and blank lines are not.
fn known(list: &str) -> Result<BTreeSet<String>> {
    let path: PathBuf = workspace::root().join("integration/critest").join(list);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let names = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(names
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

fn print_verdict(verdict: &Verdict) {
    for (name, reason) in &verdict.skips {
        println!("  skipped {name}: {reason}");
    }
    for complaint in &verdict.complaints {
        println!("  FAILED  {complaint}");
    }
    println!("  critest: {}", verdict.tally);
}

fn enough(verdict: &Verdict) -> Result<()> {
    if verdict.tally.passed < LEAST_PASSES {
        bail!("only {} passed", verdict.tally.passed);
    }
    Ok(())
}
