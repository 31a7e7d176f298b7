//! Specifications that have to do with cgroups, limits, devices and namespaces, where all
//! controllers are in one tree. They run in a virtual machine, where each takes seconds.
//!
//! All containers have a cgroup namespace of their own. Without one ours sees its own cgroup, as on
//! version 1, but with runc and crun the whole tree of the host.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::specs::{self, Case};
use super::{Runtime, differences, ours, runc};
use crate::artefacts;
use crate::command::which;
use crate::outcome::Tally;

/// Entries of the table that are asked for each time.
const ALWAYS: &[&str] = &["cgroup namespace", "cgroups read-only"];

/// Those that are asked for together with them.
const TABLE: &[&[&str]] = &[
    &[],
    &["cgroups writable"],
    &["host's uts"],
    &["host's network"],
    &["host's ipc", "joined network"],
    &["few files", "score"],
    &["memory"],
    &["memory and reservation"],
    &["shares"],
    &["quota"],
    &["one processor"],
    &["pids"],
    &["no devices"],
    &["a device"],
    &["a forbidden device"],
    &["user", "a device", "pids"],
    &["memory", "shares", "quota", "one processor", "no devices"],
];

/// What version 1 has not, or has otherwise: a name and the resources.
fn resources() -> Result<Vec<(&'static str, Value)>> {
    let disk = fs::read_to_string("/sys/block/vda/dev").context("the machine has no disk")?;
    let numbers: Vec<u64> = disk
        .trim()
        .split(':')
        .filter_map(|number| number.parse().ok())
        .collect();
    let [major, minor] = numbers[..] else {
        anyhow::bail!("{disk:?} is no device number");
    };
    let rate = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
    Ok(vec![
        (
            "files of the cgroup",
            json!({ "unified": {
                "memory.high": "50331648", "memory.oom.group": "1", "pids.max": "77",
                "io.weight": "default 50", "cpu.max": "30000 60000",
            } }),
        ),
        (
            "a file that is not there",
            json!({ "unified": { "memory.none": "1" } }),
        ),
        (
            "swap",
            json!({ "memory": { "limit": 67108864, "swap": 100663296 } }),
        ),
        (
            "no swap",
            json!({ "memory": { "limit": 67108864, "swap": 67108864 } }),
        ),
        (
            "burst",
            json!({ "cpu": { "quota": 20000, "period": 50000, "burst": 10000 } }),
        ),
        ("no limit of pids", json!({ "pids": { "limit": -1 } })),
        ("weight of blocks", json!({ "blockIO": { "weight": 500 } })),
        (
            "rates of blocks",
            json!({ "blockIO": {
                "throttleReadBpsDevice": rate(1 << 20), "throttleWriteIOPSDevice": rate(100),
            } }),
        ),
        (
            "huge pages",
            json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4194304 }] }),
        ),
        (
            "some devices",
            json!({ "devices": [
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 1, "minor": 11, "access": "r" },
            ] }),
        ),
    ])
}

fn cases() -> Result<Vec<Case>> {
    let table = TABLE.iter().map(|names| {
        let names = [ALWAYS, *names].concat();
        specs::named(&names)
    });
    let mut cases = table.collect::<Result<Vec<_>>>()?;
    for (name, resources) in resources()? {
        let mut case = specs::named(&[ALWAYS, &["a forbidden device"]].concat())?;
        case.spec["linux"]["resources"] = resources;
        case.name = name.to_owned();
        cases.push(case);
    }
    Ok(cases)
}

/// How lines begin that may differ, and why.
const KNOWN: &[(&str, &str)] = &[
    (
        "device /dev/core ",
        "runc and crun link it to /proc/kcore where the kernel has that; ours shows no way to it",
    ),
    (
        "file /sys/fs/cgroup/cgroup.controllers ",
        "runc and crun pass on every controller, ours those that count or limit something",
    ),
];

/// The same, where crun goes a way of its own and ours is runc's.
const CRUN: &[(&str, &str)] = &[
    (
        "file /sys/fs/cgroup/cpu.weight ",
        "crun 1.8 has a line from shares to weights where 1024 shares are not the default of 100",
    ),
    (
        "file /sys/fs/cgroup/cpu.max.burst ",
        "crun 1.8 does not know it",
    ),
    (
        "device /dev/null ",
        "crun gives the null device on standard input to the user",
    ),
];

fn is_in(list: &[(&str, &str)], line: &str) -> bool {
    list.iter()
        .any(|(beginning, _)| line.starts_with(beginning))
}

pub fn run() -> Result<Tally> {
    println!("  specifications");
    let mut tally = Tally::default();
    let place = tempfile::tempdir().context("making a place for bundles")?;
    let ours = ours();
    let runc = Runtime {
        own_ways: |line| is_in(KNOWN, line),
        ..runc()?
    };
    let crun = which("crun").map(|program| Runtime {
        name: "crun",
        program,
        without_unified: false,
        own_ways: |line| is_in(KNOWN, line) || is_in(CRUN, line),
    });
    if crun.is_none() {
        tally.skip("crun", "is not installed");
    }
    let theirs: Vec<Runtime> = [Some(runc), crun].into_iter().flatten().collect();
    let cases = cases()?;
    for case in &cases {
        for (name, result) in compare(place.path(), case, &ours, &theirs)? {
            match result {
                Ok(()) => tally += Tally::PASSED,
                Err(error) => tally.check(&format!("{name}: {}", case.name), Err(error)),
            }
        }
    }
    println!("  {} specifications next to others: {tally}", cases.len());
    tally.check("no cgroup of a specification is left", nothing_left());
    Ok(tally)
}

type Compared = (&'static str, Result<()>);

fn compare(place: &Path, case: &Case, ours: &Runtime, all: &[Runtime]) -> Result<Vec<Compared>> {
    let probe = artefacts::probe();
    let own = ours.run(place, &case.spec, &probe)?;
    let compared = all.iter().map(|theirs| {
        let seen = theirs.run(place, &case.spec, &probe)?;
        let found = differences::between(&own, &seen, theirs.own_ways);
        let told = match found.is_empty() {
            true => Ok(()),
            false => Err(anyhow::anyhow!("\n      {}", found.join("\n      "))),
        };
        Ok((theirs.name, told))
    });
    compared.collect()
}

fn nothing_left() -> Result<()> {
    let parent = Path::new("/sys/fs/cgroup/berth-oci-suite");
    let left = parent.join("probed");
    ensure!(!left.exists(), "{} is left", left.display());
    // Runtimes leave parents where they are.
    match fs::remove_dir(parent) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("the parent is in use")
        }
        _ => Ok(()),
    }
}
