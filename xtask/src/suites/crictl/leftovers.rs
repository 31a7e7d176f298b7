//! What may not be there after the last pod is gone.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::session::Session;
use crate::command::retry;

/// Processes get a moment to end; a shim answers before it exits.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn none(session: &mut Session) -> Result<()> {
    retry(PATIENCE, || {
        let own = session.own_processes();
        let mut left = session.place.processes()?;
        left.retain(|pid| !own.iter().any(|own| i64::from(*own) == i64::from(*pid)));
        let left: Vec<String> = left.into_iter().map(described).collect();
        ensure!(left.is_empty(), "processes: {}", left.join("; "));

        let mounts = session.place.mounts()?;
        ensure!(mounts.is_empty(), "mounts: {mounts:?}");
        for directory in ["pods", "containers"] {
            let directory = session.place.state().join(directory);
            let left = directory.read_dir().map(Iterator::count).unwrap_or(0);
            ensure!(left == 0, "{left} entries in {}", directory.display());
        }
        Ok(())
    })
}

/// Once the daemon, whose bridge it is, has ended.
pub fn no_network(session: &mut Session) -> Result<()> {
    session.place.bridge().remove()
}

fn described(pid: i32) -> String {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!(
        "{pid} {}",
        String::from_utf8_lossy(&arguments)
            .replace('\0', " ")
            .trim()
    )
}
