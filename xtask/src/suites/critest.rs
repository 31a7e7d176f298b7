//! critest, the conformance suite of the CRI, against a private daemon.

mod images;
mod report;

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::iter;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{end, wait};
use crate::daemon::Daemon;
use crate::outcome::{Tally, tell_failure};
use crate::place::Place;
use crate::registry::Registry;
use crate::suites::handlers;
use crate::tools::{self, Tool};
use crate::workspace;
use report::{Report, Verdict};

/// All specs take two minutes; a hanging one has its own limits of up to five.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// Ports of the host that specs publish.
const PORTS: std::ops::RangeInclusive<u16> = 12000..=12003;

/// One run of critest.
struct Way {
    /// Of its log, and of lists that are for it alone; empty for the first.
    name: &'static str,
    told: &'static str,
    flags: &'static [&'static str],
    /// Fewer passes mean that features went missing without a failure: critest skips what a runtime
    /// does not announce.
    least: usize,
}

const STREAMS: &str = "--ginkgo.focus=runtime should support streaming interfaces";
/// What has no container in it is the same whatever the handler.
const NO_IMAGES: &str = "--ginkgo.skip=Image Manager";

const WAYS: [Way; 5] = [
    Way {
        name: "",
        told: "one after another",
        flags: &[],
        least: 107,
    },
    Way {
        name: "websocket",
        told: "the streams, over websockets",
        flags: &[
            STREAMS,
            "--websocket-exec",
            "--websocket-attach",
            "--websocket-portforward",
        ],
        least: 5,
    },
    Way {
        name: "parallel",
        told: "four side by side",
        flags: &["--parallel=4"],
        least: 107,
    },
    Way {
        name: "runc",
        told: "with containerd's shim and runc",
        flags: &["--runtime-handler=runc", NO_IMAGES],
        least: 98,
    },
    Way {
        name: "crun",
        told: "with containerd's shim and crun",
        flags: &["--runtime-handler=crun", NO_IMAGES],
        least: 88,
    },
];

/// Runs all specs in every way.
pub fn run() -> Result<Tally> {
    in_ways(WAYS.iter().collect(), None)
}

/// Runs them in one way, the first where none is named, or only those that match `focus`.
pub fn run_in(name: &str, focus: Option<&str>) -> Result<Tally> {
    let way = WAYS.iter().find(|way| way.name == name);
    let known: Vec<&str> = WAYS.iter().map(|way| way.name).collect();
    let way = way.with_context(|| format!("{name:?} is not one of {}", known.join(" ")))?;
    in_ways(vec![way], focus)
}

/// What comes of it is judged by the lists of `integration/critest`.
fn in_ways(ways: Vec<&Way>, focus: Option<&str>) -> Result<Tally> {
    println!("critest");
    let mut tally = Tally::default();
    if let Some(reason) = unfit() {
        tally.skip("critest", &reason);
        return Ok(tally);
    }
    let place = Place::new()?;
    handlers::configure(&place)?;
    let registry = Registry::start(&place.scratch())?;
    images::publish(registry.remote())?;
    for name in images::REGISTRIES {
        place.mirror(name, registry.address())?;
    }
    let logs = workspace::logs()?;
    let daemon_log = logs.join("critest-berthd.log");
    let _fresh = fs::remove_file(&daemon_log);
    let daemon = Daemon::start(&place, &daemon_log)?;

    for way in &ways {
        println!("  {}", way.told);
        let began = Instant::now();
        let report = drive(&daemon, &place, &logs, focus, way)?;
        let verdict = report.judge(&known("failures", way)?, &known("skips", way)?);
        print_verdict(&verdict, began);
        tally += verdict.tally;
        if focus.is_none() {
            let name = format!("at least {} specs pass", way.least);
            tally.check(&name, enough(&verdict, way.least));
        }
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
    way: &Way,
) -> Result<Report> {
    // In the current directory: side by side, the report is put together from one of each process.
    const REPORT: &str = "report.json";
    let json = place.scratch().join(REPORT);
    let _of_another_way = fs::remove_file(&json);
    let log = logs.join(match way.name {
        "" => "critest.log".to_owned(),
        name => format!("critest-{name}.log"),
    });
    let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let endpoint = daemon.endpoint();
    let mut command = Command::new(tools::path(Tool::Critest)?);
    command
        .current_dir(place.scratch())
        .env("PATH", path_with_ginkgo(place)?)
        .arg(format!("--runtime-endpoint={endpoint}"))
        .arg(format!("--image-endpoint={endpoint}"))
        .arg(format!("--ginkgo.json-report={REPORT}"))
        .args(["--ginkgo.no-color", "--ginkgo.v"])
        .args(way.flags)
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

/// Where critest finds the program that runs specs side by side, by its plain name.
fn path_with_ginkgo(place: &Place) -> Result<OsString> {
    let ginkgo = tools::path(Tool::Ginkgo)?;
    let directory = place.scratch().join("ginkgo");
    if !directory.exists() {
        fs::create_dir(&directory)
            .and_then(|()| symlink(&ginkgo, directory.join("ginkgo")))
            .context("naming ginkgo")?;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let all = iter::once(directory).chain(env::split_paths(&path));
    env::join_paths(all).context("making a PATH with ginkgo")
}

/// Names that `integration/critest` lists for every way and for this one; comments and blank lines
/// are not.
fn known(kind: &str, way: &Way) -> Result<BTreeSet<String>> {
    let directory = workspace::root().join("integration/critest");
    let mut names = BTreeSet::new();
    for list in [
        format!("expected-{kind}.txt"),
        format!("expected-{kind}-{}.txt", way.name),
    ] {
        let path = directory.join(list);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        let lines = text.lines().map(str::trim);
        let named = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        names.extend(named.map(str::to_owned));
    }
    Ok(names)
}

fn print_verdict(verdict: &Verdict, began: Instant) {
    for (name, reason) in &verdict.skips {
        println!("  skipped {name}: {reason}");
    }
    for complaint in &verdict.complaints {
        tell_failure(&format!("FAILED  {complaint}"));
    }
    let seconds = began.elapsed().as_secs();
    println!("  critest: {} in {seconds} s", verdict.tally);
}

fn enough(verdict: &Verdict, least: usize) -> Result<()> {
    if verdict.tally.passed < least {
        bail!("only {} passed", verdict.tally.passed);
    }
    Ok(())
}
