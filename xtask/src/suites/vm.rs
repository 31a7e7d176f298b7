//! What only a machine of its own can show: this host's cgroups are whatever
//! they are, those of the machine are v2 alone, with systemd as PID 1 or without.
//!
//! The machine's root is this host's, shared read-only, with what is written
//! kept in the machine's memory. So the programs, tests and suites inside are
//! the ones that were built here, and nothing has to be installed in an image.

mod archive;
mod disks;
mod inside;
mod kernel;
mod machine;
mod quotas;
mod settings;
mod systemd;
mod test_programs;
mod unified;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::outcome::Tally;
use crate::tools::{self, Tool};
use crate::{artefacts, workspace};
use machine::{End, Machine};
use settings::Settings;

pub use inside::run as run_inside;

/// Said to ourselves in the machine.
pub const INSIDE: &str = "--inside";

/// Emulated, and beside others: far above what is usual.
const LIMIT: Duration = Duration::from_secs(30 * 60);

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
    run(&Kind::ALL, "")
}

/// The programs of the house are built already. Rooms are those whose name contains `focus`.
pub fn run(kinds: &[Kind], focus: &str) -> Result<Tally> {
    let mut tally = Tally::default();
    println!("vm");
    if !rustix::process::geteuid().is_root() {
        tally.skip("vm suite", "needs root");
        return Ok(tally);
    }
    let kernel = kernel::ensure().context("a kernel for the machines")?;
    let tests = test_programs::build()?;
    artefacts::build_oci()?;
    // Shared with the machines, which have no way to it themselves.
    tools::ensure(Tool::Runc)?;
    // Each waits more than it works, and so they share what processors there are.
    let results = thread::scope(|scope| {
        let running: Vec<_> = kinds
            .iter()
            .map(|kind| {
                let settings = Settings::new(*kind, tests.clone(), focus);
                let kernel = &kernel;
                scope.spawn(move || boot(*kind, kernel, &settings?))
            })
            .collect();
        running
            .into_iter()
            .map(|machine| machine.join().unwrap_or_else(|_| bail!("it panicked")))
            .collect::<Vec<_>>()
    });
    for (kind, result) in kinds.iter().zip(results) {
        match result {
            Ok(counted) => tally += counted,
            Err(error) => tally.check(&format!("{} machine", kind.name()), Err(error)),
        }
    }
    Ok(tally)
}

/// One that freezes says nothing of the suite, and is started again once.
fn boot(kind: Kind, kernel: &kernel::Kernel, settings: &Settings) -> Result<Tally> {
    let begin = Instant::now();
    let log = workspace::logs()?.join(format!("vm-{}.log", kind.name()));
    let once = || {
        let place = tempfile::tempdir().context("making a place for the machine")?;
        let initramfs = place.path().join("initramfs");
        kernel.pack(&settings.text(), &initramfs)?;
        let machine = Machine::boot(kernel, &initramfs, place.path(), &log)?;
        let end = machine.result(kind.name(), LIMIT);
        end.with_context(|| format!("see {}", log.display()))
    };
    let counted = match once()? {
        End::Told(counted) => counted,
        End::Frozen => {
            println!(
                "  note    the {} machine froze and is started again",
                kind.name()
            );
            match once()? {
                End::Told(counted) => counted,
                End::Frozen => bail!("the machine froze twice: see {}", log.display()),
            }
        }
    };
    let seconds = begin.elapsed().as_secs();
    println!("  {} machine: {counted} in {seconds} s", kind.name());
    Ok(counted)
}
