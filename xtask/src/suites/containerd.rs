//! A stock containerd that runs containers with our shim, driven by its own client.

mod asked;
mod checkpoints;
mod faults;
mod inventory;
mod pods;
mod session;
mod tasks;
mod watch;

use anyhow::Result;

use crate::artefacts;
use crate::outcome::Tally;
use session::Session;

type Step = fn(&mut Session) -> Result<()>;

/// What steps have in common.
type Room = (&'static str, &'static [(&'static str, Step)]);

/// Each step begins with nothing and has to leave nothing.
const ROOMS: &[Room] = &[
    ("asked", asked::STEPS),
    ("tasks", tasks::STEPS),
    ("pods", pods::STEPS),
    ("checkpoints", checkpoints::STEPS),
    ("faults", faults::STEPS),
];

pub fn run() -> Result<Tally> {
    run_matching("")
}

/// Only rooms whose name contains `focus`.
pub fn run_matching(focus: &str) -> Result<Tally> {
    println!("containerd");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("containerd suite", "needs root");
        return Ok(tally);
    }
    artefacts::build_shim()?;
    let mut session = Session::begin()?;
    let rooms = ROOMS.iter().filter(|(room, _)| room.contains(focus));
    for (room, steps) in rooms {
        if let (&"checkpoints", Err(reason)) = (room, &session.criu) {
            tally.skip("checkpoints", reason);
            continue;
        }
        for (name, step) in *steps {
            let done = step(&mut session);
            tally.check(name, done.and_then(|()| session.nothing_is_left()));
            session.sweep()?;
        }
    }
    tally.check("containerd ends, and nothing is left", session.end());
    if tally.failed > 0 {
        println!("  containerd log: {}", session.log.display());
    }
    Ok(tally)
}
