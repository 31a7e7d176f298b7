//! What a node has to bear: many pods, a killed daemon, requests that are wrong.

mod cgroups;
mod cycles;
mod inventory;
mod refusals;
mod restart;
mod session;

use anyhow::Result;

use crate::outcome::Tally;
use session::Session;

type Part = fn(&mut Session) -> Result<()>;

/// The parts do not build on each other: all run, also after a failed one.
pub fn run() -> Result<Tally> {
    println!("node");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("node suite", "needs root");
        return Ok(tally);
    }
    let mut session = Session::begin()?;
    let parts: [(&str, Part); 2] = [
        ("a hundred pods leave nothing behind", cycles::leave_nothing),
        ("twenty pods outlive a killed daemon", restart::takes_over),
    ];
    for (name, part) in parts {
        let result = part(&mut session);
        settle(&mut session, &mut tally, name, result)?;
    }
    refusals::warm_up(&mut session)?;
    for (name, case) in refusals::CASES {
        let result = refusals::judge(&mut session, *case);
        settle(
            &mut session,
            &mut tally,
            &format!("{name} is refused"),
            result,
        )?;
    }
    if tally.failed > 0 {
        println!("  daemon log: {}", session.daemon_log().display());
    }
    tally.check("no network is left behind", session.end());
    Ok(tally)
}

/// Counts a part; what a failed one left is cleared away for the next.
fn settle(session: &mut Session, tally: &mut Tally, name: &str, result: Result<()>) -> Result<()> {
    let failed = result.is_err();
    tally.check(name, result);
    if failed {
        session.ensure_daemon()?;
        session.clean_up();
    }
    Ok(())
}
