//! One pod from pull to removal, told step by step, and the proof that nothing
//! of it is left.
//!
//! Everything is private: a daemon in directories of its own, its cgroup
//! parent, and a network namespace in place of the host's, so that neither a
//! daemon that serves this machine nor its bridge is touched.

mod census;
mod cri;
mod image;
mod network;
mod story;
mod teller;

use std::fs;

use anyhow::{Context, Result, bail};

use crate::command::which;
use crate::{artefacts, workspace};

/// Given to the process that already has the private network.
pub const INSIDE: &str = "--inside";

/// Builds what it needs and tells the story; an error where it goes wrong or
/// where something is left behind.
pub fn run() -> Result<()> {
    fit()?;
    artefacts::build()?;
    artefacts::build_hello()?;
    network::enter()
}

/// The second half of [`run`], in the private network.
pub fn run_inside() -> Result<()> {
    network::bring_up()?;
    let log = workspace::logs()?.join("demo-berthd.log");
    let _fresh = fs::remove_file(&log);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting a runtime")?
        .block_on(async {
            tokio::select! {
                told = story::tell(&log) => told,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            }
        })
        .with_context(|| format!("see {} for what the daemon says", log.display()))
}

/// Says all that is missing at once.
fn fit() -> Result<()> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root (pods need mounts, cgroups and namespaces): try sudo".to_owned());
    }
    for (program, package) in [("unshare", "util-linux"), ("ip", "iproute2")] {
        if which(program).is_none() {
            missing.push(format!("the program {program} ({package})"));
        }
    }
    if !missing.is_empty() {
        bail!("the demo needs {}", missing.join(", and "));
    }
    Ok(())
}
