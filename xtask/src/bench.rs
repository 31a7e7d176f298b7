//! How long the calls of the CRI take, next to containerd where one is given.
//!
//! Both are driven by the same client with the same requests, in turns, so that what the machine
//! does meanwhile falls on both. Between two calls there is a pause, as on a real node: back to
//! back, waits of the kernel for its readers vanish and the figures mislead.

mod build;
mod crowd;
mod density;
mod docker;
mod figures;
mod lists;
mod load;
mod machine;
pub mod oci;
mod pull;
mod rate;
mod raw;
mod restart;
mod side;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::containerd::Containerd;
use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::{artefacts, tools, workspace};
pub use build::run as build;
pub use density::run as density;
pub use docker::run as docker;
pub use lists::run as lists;
pub use pull::run as pull;
pub use restart::run as restart;
use side::Side;

const ROUNDS: usize = 5;

/// What was asked for on the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// What to compare with.
    peer: Against,
    rounds: usize,
    pause: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Against {
    Nothing,
    /// A containerd that runs already, by its socket.
    Running(PathBuf),
    /// One of our own, from pinned sources.
    Private,
}

impl Options {
    pub fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self {
            peer: Against::Nothing,
            rounds: ROUNDS,
            pause: side::PAUSE,
        };
        let mut words = arguments.iter();
        while let Some(flag) = words.next() {
            if *flag == "--with-containerd" {
                options.peer = Against::Private;
                continue;
            }
            let value = words
                .next()
                .with_context(|| format!("{flag} needs a value"))?;
            match *flag {
                "--containerd" => options.peer = Against::Running(PathBuf::from(value)),
                "--rounds" => {
                    options.rounds = value.parse().with_context(|| format!("{flag} {value}"))?;
                }
                "--pause" => {
                    let millis = value.parse().with_context(|| format!("{flag} {value}"))?;
                    options.pause = Duration::from_millis(millis);
                }
                other => bail!("unknown option {other}"),
            }
        }
        if options.rounds == 0 {
            bail!("--rounds 0 measures nothing");
        }
        Ok(options)
    }
}

/// Measures, prints a table and keeps every single figure.
pub fn run(options: &Options) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("needs root");
    }
    let programs = programs(true)?;
    let place = Place::as_on_a_node()?;
    let registry = Registry::start(&place.scratch())?;
    let images = load::publish(&registry)?;
    let log = workspace::logs()?.join("bench-berthd.log");
    let _fresh = fs::remove_file(&log);
    let daemon = Daemon::start_from(&programs, &place, &log)?;

    let logs = place.pod_logs();
    let pid = i32::try_from(daemon.pid()).context("pid of berthd")?;
    let mut sides = vec![Side::connect("berth", &place.socket(), pid, &logs)?];
    let mut private = None;
    match &options.peer {
        Against::Nothing => {}
        Against::Running(socket) => {
            let pid = machine::peer(socket)?;
            sides.push(Side::connect("containerd", socket, pid, &logs)?);
        }
        Against::Private => {
            let peer = private.insert(Containerd::start(&registry)?);
            let (socket, pid) = (peer.socket(), peer.pid()?);
            sides.push(Side::connect("containerd", &socket, pid, &logs)?);
        }
    }
    for side in &mut sides {
        side.pause = options.pause;
    }
    for round in 1..=options.rounds {
        for side in &mut sides {
            println!("round {round} of {}: {}", options.rounds, side.name());
            let result = whole_round(side, &images);
            result.with_context(|| side.name().to_owned())?;
        }
    }
    let path = workspace::artefacts().join("bench.json");
    write(&path, options, &sides)?;
    println!("{}", figures::table(&sides));
    println!("every figure: {}", path.display());
    daemon.stop()?;
    place.bridge().remove()
}

/// One round of a daemon's, for what it does and not for how long that takes.
pub fn one_round(registry: &Registry, daemon: &Daemon, place: &Place) -> Result<()> {
    let images = load::publish(registry)?;
    let pid = i32::try_from(daemon.pid()).context("pid of berthd")?;
    let mut side = Side::connect("berth", &place.socket(), pid, &place.pod_logs())?;
    whole_round(&mut side, &images)
}

/// Nothing of one that was broken off stays.
fn whole_round(side: &mut Side, images: &load::Images) -> Result<()> {
    let result = side.round(images);
    if result.is_err() {
        side.clear_away();
    }
    result
}

fn write(path: &Path, options: &Options, sides: &[Side]) -> Result<()> {
    let runtimes: serde_json::Map<_, _> = sides
        .iter()
        .map(|side| (side.name().to_owned(), side.to_json()))
        .collect();
    let report = json!({
        "machine": machine::describe(),
        "method": {
            "rounds": options.rounds,
            "cycles_per_round": side::CYCLES,
            "pods_at_rest": side::PODS,
            "pause_ms": u64::try_from(options.pause.as_millis()).unwrap_or_default(),
        },
        "runtimes": runtimes,
        "ratios_of_p50": figures::ratios(sides),
    });
    let text = serde_json::to_string_pretty(&report).context("encoding the figures")?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The daemon and its programs, freshly built and by themselves, and what a bench needs beside them.
fn programs(released: bool) -> Result<PathBuf> {
    tools::install()?;
    if released {
        return artefacts::build_release();
    }
    artefacts::build()?;
    Ok(workspace::artefacts())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_what_is_wrong_is_named() {
        let options = Options::parse(&["--rounds", "2", "--containerd", "/x.sock"]).unwrap();
        let running = Against::Running("/x.sock".into());
        assert_eq!((options.rounds, options.peer), (2, running));
        let options = ["--with-containerd", "--rounds", "2", "--pause", "100"];
        let options = Options::parse(&options).unwrap();
        assert_eq!((options.rounds, options.peer), (2, Against::Private));
        assert_eq!(options.pause, Duration::from_millis(100));
        assert_eq!(Options::parse(&[]).unwrap().rounds, ROUNDS);
        for (arguments, word) in [
            (&["--rounds"] as &[&str], "--rounds"),
            (&["--rounds", "many"], "many"),
            (&["--rounds", "0"], "nothing"),
            (&["--pause", "-1"], "-1"),
            (&["--fast", "yes"], "--fast"),
        ] {
            let error = format!("{:#}", Options::parse(arguments).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }
}
