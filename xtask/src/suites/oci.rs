//! The same specifications through `berth-oci`, runc and crun, compared by
//! what a probe sees from inside.

mod checkpoint;
mod differences;
mod features;
pub mod runtime;
mod specs;
pub mod unified;
mod validation;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::artefacts;
use crate::command::which;
use crate::outcome::Tally;
use crate::tools::{self, Tool};
use runtime::{Runtime, UNIFIED};
use specs::Case;
pub use specs::base as plain;

/// Mixtures beside the entries of the table.
const MIXTURES: u64 = 180;

pub fn run() -> Result<Tally> {
    println!("oci");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("oci", "needs root");
        return Ok(tally);
    }
    artefacts::build_oci()?;
    let ours = ours();
    let runc = runc()?;
    let features = features::compare(&ours.program, &runc.program);
    tally.check("features are runc's but for those that are known", features);
    let place = tempfile::tempdir().context("making a place for bundles")?;
    let cases = specs::cases(MIXTURES);
    tally += compare(place.path(), &cases, &ours, &runc)?;
    match crun() {
        Some(crun) => tally += compare(place.path(), &cases, &ours, &crun)?,
        None => tally.skip("crun", "is not installed"),
    }
    tally += validation::run(place.path(), &ours, &runc)?;
    tally += checkpoint::run_all()?;
    Ok(tally)
}

/// Validation programs alone.
pub fn run_validation() -> Result<Tally> {
    artefacts::build_oci()?;
    let place = tempfile::tempdir().context("making a place for bundles")?;
    validation::run(place.path(), &ours(), &runc()?)
}

/// Checkpoints alone.
pub fn run_checkpoints() -> Result<Tally> {
    artefacts::build_oci()?;
    checkpoint::run_all()
}

pub fn ours() -> Runtime {
    Runtime {
        name: "berth-oci",
        program: artefacts::oci(),
        without_unified: false,
        own_ways: |_| false,
    }
}

fn runc() -> Result<Runtime> {
    Ok(Runtime {
        name: "runc",
        program: tools::ensure(Tool::Runc)?,
        without_unified: false,
        own_ways: |_| false,
    })
}

/// Debian's, which refuses hybrid hosts whose unified tree has controllers.
pub fn crun() -> Option<Runtime> {
    which("crun").map(|program| Runtime {
        name: "crun",
        program,
        without_unified: Path::new(UNIFIED).exists(),
        own_ways: crun_alone,
    })
}

/// Where crun goes a way of its own and ours is runc's: it links `/dev/core`,
/// gives the null device on standard input to the user, has other device rules
/// where none are asked for, and forgets the flags of the mount that a
/// read-only path is on. Its unified tree is not there (see `without_unified`).
fn crun_alone(line: &str) -> bool {
    const BEGINNINGS: [&str; 6] = [
        "device /dev/core ",
        "device /dev/null ",
        "file /proc/self/cgroup ",
        "file /sys/fs/cgroup/devices/devices.list ",
        "mount /proc/sys ",
        "mount /proc/bus ",
    ];
    BEGINNINGS
        .iter()
        .any(|beginning| line.starts_with(beginning))
}

/// One count for each specification.
fn compare(place: &Path, cases: &[Case], ours: &Runtime, theirs: &Runtime) -> Result<Tally> {
    let mut tally = Tally::default();
    for case in cases {
        match compare_one(place, case, ours, theirs) {
            Ok(()) => tally += Tally::PASSED,
            Err(error) => tally.check(&format!("{}: {}", theirs.name, case.name), Err(error)),
        }
    }
    println!(
        "  {} specifications next to {}: {tally}",
        cases.len(),
        theirs.name
    );
    ensure!(tally.passed + tally.failed > 0, "nothing was compared");
    Ok(tally)
}

fn compare_one(place: &Path, case: &Case, ours: &Runtime, theirs: &Runtime) -> Result<()> {
    let probe = artefacts::probe();
    let spec = case.spec.clone();
    let own_ways = theirs.own_ways;
    let ours = ours.run(place, &spec, &probe)?;
    let theirs = theirs.run(place, &spec, &probe)?;
    let differences = differences::between(&ours, &theirs, own_ways);
    if !differences.is_empty() {
        bail!("\n      {}", differences.join("\n      "));
    }
    Ok(())
}
