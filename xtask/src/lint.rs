//! Rules of the house that compilers do not know.

mod direction;
mod faults;
mod sources;

use anyhow::Result;

use crate::outcome::Tally;

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
    Ok(tally)
}

fn verdict(broken: &[String]) -> Result<()> {
    for line in broken {
        println!("    {line}");
    }
    anyhow::ensure!(broken.is_empty(), "{} broken", broken.len());
    Ok(())
}
