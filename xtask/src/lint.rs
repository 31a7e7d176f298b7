//! Rules of the house that compilers do not know.

mod direction;
mod faults;
mod sources;

use anyhow::Result;

use crate::outcome::Tally;
use crate::plots;

/// Runs every rule and prints what breaks it.
pub fn run() -> Result<Tally> {
    let mut tally = Tally::default();
    for (name, broken) in [
        ("dependencies point downwards", direction::check()?),
        ("fault points are for tests alone", faults::check()?),
        ("names and unsafe stay in their rooms", sources::check()?),
    ] {
        tally.check(name, verdict(&broken));
    }
    tally.check("plots are of the figures beside them", plots::check());
    Ok(tally)
}

fn verdict(broken: &[String]) -> Result<()> {
    for line in broken {
        println!("    {line}");
    }
    anyhow::ensure!(broken.is_empty(), "{} broken", broken.len());
    Ok(())
}
