//! What runs in the machine.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::machine;
use super::{Kind, settings, systemd, unified};
use crate::command::stdout;
use crate::outcome::Tally;
use crate::suites::{crictl, node};

/// The least in which a pod and its containers live, die and are counted;
/// emulated, a client such as crictl takes a second for each call.
const CRICTL: &[&str] = &[
    "pull by tag answers with the image id",
    "runp makes a ready pod",
    "create makes a container that does not run yet",
    "start runs it",
    "exec -s returns output and failure",
    "exec -s sees environment, directory, host name, DNS and mounts",
    "limits are in force and can be updated",
    "the pod is reachable by its address",
    "stats and statsp count what is used",
    "metricsp tells what metricdescs describes",
    "a container outlives a killed daemon",
    "stop lets the container end by itself",
    "an exit is recorded while the daemon is away",
    "rm removes containers",
    "stopp takes the pod down and can be repeated",
    "rmp removes it",
    "no process and no mount is left behind",
    "the daemon ends when asked to",
    "no network is left behind",
];

/// Parts of the node suite that read limits from the kernel.
const NODE: &str = "limits change both ways,a pod is limited with its overhead";

/// Counts what holds here and tells it to the host.
pub fn run(kind: &str) -> Result<()> {
    let kind = Kind::parse(kind)?;
    let mut tally = Tally::default();
    tally.check("all controllers are in one tree", one_tree());
    if kind == Kind::Systemd {
        tally.check("systemd runs the machine", systemd_runs());
    }
    let tests = timed("tests", || {
        let mut counted = Tally::default();
        for program in settings::tests()? {
            counted += program.run()?;
        }
        Ok(counted)
    });
    count(&mut tally, "tests of the rooms", tests);
    count(&mut tally, "unified", timed("unified", unified::run));
    match kind {
        Kind::Cgroupfs => {
            let limits = timed("node", || node::run_matching(NODE));
            count(&mut tally, "node", limits);
        }
        Kind::Systemd => count(&mut tally, "systemd", timed("systemd", systemd::run)),
    }
    let crictl = timed("crictl", || crictl::run_only(CRICTL));
    count(&mut tally, "crictl", crictl);
    tally.check("the kernel had nothing to refuse of overlays", overlays());
    machine::tell(tally);
    Ok(())
}

fn timed(name: &str, part: impl FnOnce() -> Result<Tally>) -> Result<Tally> {
    let begin = Instant::now();
    let result = part();
    println!("  {name} took {} s", begin.elapsed().as_secs());
    result
}

fn count(tally: &mut Tally, name: &str, part: Result<Tally>) {
    match part {
        Ok(counted) => *tally += counted,
        Err(error) => tally.check(name, Err(error)),
    }
}

/// A kernel that is asked for an option it does not have says so in its log, once for each mount.
fn overlays() -> Result<()> {
    let log = stdout(&mut Command::new("dmesg"))?;
    let refused = log
        .lines()
        .filter(|line| line.contains("lowerdir+"))
        .count();
    ensure!(refused == 0, "{refused} lines about lowerdir+");
    Ok(())
}

fn one_tree() -> Result<()> {
    let path = Path::new("/sys/fs/cgroup/cgroup.controllers");
    let offered = fs::read_to_string(path).context("reading the controllers of the tree")?;
    for controller in ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"] {
        ensure!(
            offered.split_whitespace().any(|name| name == controller),
            "no {controller} among {offered:?}"
        );
    }
    let v1 = fs::read_to_string("/proc/self/mountinfo").context("reading mounts")?;
    ensure!(!v1.contains(" - cgroup "), "a v1 hierarchy is mounted");
    Ok(())
}

fn systemd_runs() -> Result<()> {
    let first = fs::read_to_string("/proc/1/comm").context("reading who is first")?;
    ensure!(first.trim() == "systemd", "PID 1 is {first:?}");
    let socket = Path::new("/run/systemd/private");
    ensure!(socket.exists(), "{} is not there", socket.display());
    Ok(())
}
