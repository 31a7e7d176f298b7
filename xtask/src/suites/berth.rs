//! What a person does with `berth`, its output checked, against a private daemon.

mod attestations;
mod builds;
mod caches;
mod compose;
mod containers;
mod corpus;
mod images;
mod places;
mod platforms;
mod plugin;
mod shown;
mod terminals;
mod things;

use anyhow::{Context, Result};

use super::checks::{contains, same};
use super::docker::session::{IMAGE, Session};
use crate::outcome::Tally;
use crate::workspace;

type Step = fn(&mut Session) -> Result<()>;

/// What steps have in common.
type Room = (&'static str, &'static [(&'static str, Step)]);

/// In order: later steps build on what earlier ones made.
const ROOMS: &[Room] = &[
    ("shown", shown::STEPS),
    ("images", images::STEPS),
    ("containers", containers::STEPS),
    ("terminals", terminals::STEPS),
    ("things", things::STEPS),
    ("builds", builds::STEPS),
    ("caches of builds", caches::STEPS),
    ("attestations of builds", attestations::STEPS),
    ("corpus", corpus::STEPS),
    ("platforms", platforms::STEPS),
    ("compose", compose::STEPS),
    ("plugin", plugin::STEPS),
    ("places", places::STEPS),
];

pub fn run() -> Result<Tally> {
    run_matching("")
}

/// Only rooms whose name contains `focus`.
pub fn run_matching(focus: &str) -> Result<Tally> {
    println!("berth");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("berth suite", "needs root");
        return Ok(tally);
    }
    let mut session = Session::begin_with(workspace::artefacts().join("berth"), "berth-cli")?;
    let rooms = ROOMS.iter().filter(|(room, _)| room.contains(focus));
    for (name, step) in rooms.flat_map(|(_, steps)| *steps) {
        tally.check(name, step(&mut session));
    }
    tally.check("the daemon ends", session.end_daemon());
    if tally.failed > 0 {
        println!("  daemon log: {}", session.daemon_log().display());
    }
    Ok(tally)
}

fn berth(session: &Session, arguments: &[&str]) -> Result<String> {
    session.docker.text(arguments)
}

/// Runs a command to its end: exit code, output, errors.
fn ended(session: &Session, arguments: &[&str]) -> Result<(i32, String, String)> {
    let output = session.docker.output(arguments)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((
        output.status.code().context("it was killed")?,
        text(output.stdout),
        text(output.stderr),
    ))
}
