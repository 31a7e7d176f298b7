//! A network namespace in the place of the host's.

use std::process::{self, Command};

use anyhow::{Context, Result, bail};

use super::INSIDE;
use crate::command::{run, which};

/// Runs the rest of the demo in a fresh network namespace and waits for it.
/// Whatever the daemon puts there ends with its last process.
pub fn enter() -> Result<()> {
    let program = which("unshare").context("unshare is not installed")?;
    // Cargo may have replaced our file since; this names what runs.
    let own = format!("/proc/{}/exe", process::id());
    let status = Command::new(program)
        .arg("--net")
        .arg(own)
        .args(["demo", INSIDE])
        .status()
        .context("entering a network namespace")?;
    if !status.success() {
        // The process inside has said why.
        bail!("the demo failed");
    }
    Ok(())
}

/// The registry of the demo is on the loopback interface, which starts down.
pub fn bring_up() -> Result<()> {
    let program = which("ip").context("ip is not installed")?;
    run(Command::new(program).args(["link", "set", "lo", "up"]))
}
