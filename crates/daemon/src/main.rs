//! `berthd`: the node's container runtime daemon.
//!
//! It reads its configuration ([`config`]), opens what is on disk, takes over what runs
//! ([`wiring`]), serves the CRI on a unix socket ([`serve`]), and leaves containers running when it
//! ends.

mod config;
mod deadline;
mod handlers;
mod metrics;
mod operator;
mod serve;
mod telemetry;
mod wiring;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::config::{Config, Flags};

fn main() -> ExitCode {
    if let Some(code) = berth_rootless::hold_if_asked() {
        return code;
    }
    let flags = Flags::parse();
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berthd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Allocator arenas of the whole daemon; glibc's default of eight per core keeps what each of the
/// pull path's threads once held.
const ARENAS: i32 = 2;

/// How long a thread for blocking work waits for more. They are woken in turn: with the usual ten seconds all that
/// a burst needed stay for as long as there is any work, with the stacks that they touched.
const IDLE: Duration = Duration::from_millis(250);

fn run(mut flags: Flags) -> Result<()> {
    berth_kernel::limit_arenas(ARENAS);
    let task = flags.task.take();
    let mut config = Config::load(flags)?;
    if !rustix::process::geteuid().is_root() {
        config.forwards = Some(enter_own_namespaces(&config)?);
    }
    if let Some(task) = task {
        return operator::run(&task, &config);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("berthd")
        .thread_keep_alive(IDLE)
        .build()
        .context("cannot start worker threads")?;
    runtime.block_on(async {
        let telemetry = telemetry::start(&config)?;
        let outcome = serve::serve(&config).await;
        telemetry.flush();
        outcome
    })
}

/// An ordinary user's daemon is root in namespaces of its own; what forwards the host's ports there
/// listens where the answer says.
fn enter_own_namespaces(config: &Config) -> Result<PathBuf> {
    let places = berth_rootless::Places {
        state: &config.state,
        keeper: &config.pod_init,
    };
    let entered = berth_rootless::enter(&places).context("cannot run as an ordinary user")?;
    Ok(entered.forwards)
}
