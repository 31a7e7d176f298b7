//! What only a machine of its own can show: this host's cgroups are whatever
//! they are, those of the machine are v2 alone, with systemd as PID 1 or without.
//!
//! The machine's root is this host's, shared read-only, with what is written
//! kept in the machine's memory. So the programs, tests and suites inside are
//! the ones that were built here, and nothing has to be installed in an image.

mod archive;
mod inside;
mod kernel;
mod machine;
mod settings;
mod systemd;
mod test_programs;
mod unified;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::outcome::Tally;
use crate::{tools, workspace};
use machine::Machine;
use settings::Settings;

pub use inside::run as run_inside;

/// Said to ourselves in the machine.
pub const INSIDE: &str = "--inside";

/// Emulated, and beside others: far above what is usual.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// What starts the processes of the machine and arranges its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing does: one tree, empty but for PID 1.
    Cgroupfs,
    Systemd,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Cgroupfs, Self::Systemd];

    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .with_context(|| format!("no machine {name:?}: there are cgroupfs and systemd"))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

pub fn run_all() -> Result<Tally> {
    run(&Kind::ALL)
}

/// The programs of the house are built already.
pub fn run(kinds: &[Kind]) -> Result<Tally> {
    let mut tally = Tally::default();
    println!("vm");
    if !rustix::process::geteuid().is_root() {
        tally.skip("vm suite", "needs root");
        return Ok(tally);
    }
    if let Err(error) = tools::install_machine() {
        tally.skip("vm suite", &format!("needs qemu: {error:#}"));
        return Ok(tally);
    }
    let kernel = match kernel::ensure() {
        Ok(kernel) => kernel,
        Err(error) => {
            tally.skip("vm suite", &format!("needs Debian's kernel: {error:#}"));
            return Ok(tally);
        }
    };
    let tests = test_programs::build()?;
    for kind in kinds {
        if let Some(reason) = cannot_boot(*kind) {
            tally.skip(&format!("vm {}", kind.name()), &reason);
            continue;
        }
        let settings = Settings::new(*kind, tests.clone())?;
        let begin = Instant::now();
        match boot(*kind, &kernel, &settings) {
            Ok(counted) => {
                let seconds = begin.elapsed().as_secs();
                println!("  {} machine: {counted} in {seconds} s", kind.name());
                tally += counted;
            }
            Err(error) => tally.check(&format!("{} machine", kind.name()), Err(error)),
        }
    }
    Ok(tally)
}

fn cannot_boot(kind: Kind) -> Option<String> {
    let systemd = PathBuf::from("/usr/lib/systemd/systemd");
    (kind == Kind::Systemd && !systemd.exists()).then(|| format!("needs {}", systemd.display()))
}

fn boot(kind: Kind, kernel: &kernel::Kernel, settings: &Settings) -> Result<Tally> {
    let place = tempfile::tempdir().context("making a place for the machine")?;
    let log = workspace::logs()?.join(format!("vm-{}.log", kind.name()));
    let initramfs = place.path().join("initramfs");
    kernel.pack(&settings.text(), &initramfs)?;
    let machine = Machine::boot(kernel, &initramfs, place.path(), &log)?;
    machine
        .result(LIMIT)
        .with_context(|| format!("see {}", log.display()))
}
