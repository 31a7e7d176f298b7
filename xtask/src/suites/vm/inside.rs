//! What runs in the machine.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::machine;
use super::{Kind, disks, quotas, settings, systemd, unified};
use crate::command::stdout;
use crate::outcome::Tally;
use crate::suites::{crictl, node, oci};

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

const BOTH: &[Kind] = &Kind::ALL;

/// A part of the suite, and the machines that it says something in.
struct Room {
    name: &'static str,
    kinds: &'static [Kind],
    run: fn(Kind) -> Result<Tally>,
}

/// In order of what stands on what.
const ROOMS: &[Room] = &[
    Room {
        name: "machine",
        kinds: BOTH,
        run: |_| machine_is_as_wanted(),
    },
    Room {
        name: "tests",
        kinds: BOTH,
        run: tests,
    },
    Room {
        name: "unified",
        kinds: BOTH,
        run: |_| unified::run(),
    },
    Room {
        name: "specifications",
        kinds: &[Kind::Cgroupfs],
        run: |_| oci::unified::run(),
    },
    Room {
        name: "node",
        kinds: &[Kind::Cgroupfs],
        run: |_| node::run_matching(NODE),
    },
    Room {
        name: "quotas",
        kinds: &[Kind::Cgroupfs],
        run: |_| quotas::run(),
    },
    Room {
        name: "systemd",
        kinds: &[Kind::Systemd],
        run: |_| systemd::run(),
    },
    Room {
        name: "crictl",
        kinds: &[Kind::Systemd],
        run: |_| crictl::run_only(CRICTL),
    },
];

/// Counts what holds here and tells it to the host.
pub fn run(kind: &str, focus: &str) -> Result<()> {
    let kind = Kind::parse(kind)?;
    let mut tally = Tally::default();
    let chosen = |room: &&Room| room.kinds.contains(&kind) && room.name.contains(focus);
    for room in ROOMS.iter().filter(chosen) {
        let begin = Instant::now();
        match (room.run)(kind) {
            Ok(counted) => tally += counted,
            Err(error) => tally.check(room.name, Err(error)),
        }
        println!("  {} took {} s", room.name, begin.elapsed().as_secs());
    }
    tally.check("the kernel had nothing to refuse of overlays", overlays());
    machine::tell(tally);
    Ok(())
}

/// What the rooms take for granted.
fn machine_is_as_wanted() -> Result<Tally> {
    let mut tally = Tally::default();
    tally.check("all controllers are in one tree", one_tree());
    tally.check("space of projects is counted", counts_projects());
    Ok(tally)
}

fn tests(kind: Kind) -> Result<Tally> {
    let mut tally = Tally::default();
    for program in settings::tests()? {
        tally += program.run(kind)?;
    }
    Ok(tally)
}

/// The disk for them is there, and the kernel has what limits them.
fn counts_projects() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").context("reading mounts")?;
    let disk = format!(" {} ext4 ", disks::QUOTAS);
    let line = mounts.lines().find(|line| line.contains(&disk));
    let line = line.with_context(|| format!("nothing is mounted on {}", disks::QUOTAS))?;
    ensure!(line.contains("prjquota"), "no quotas: {line:?}");
    Ok(())
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
