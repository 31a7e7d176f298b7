//! A command whose output is answered with its end.

use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::command::Command;
use super::output::{self, Kept, Shared};
use super::{ExecRequest, Pipes, StdStreams};
use crate::container::Container;
use crate::error::{Error, Result};

/// With no timeout asked for, nothing is waited for longer than this.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// After the command has ended its output is over when none came for this long: a process that it
/// left in the background may hold the pipe for ever.
const QUIET: Duration = Duration::from_secs(1);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

impl Container {
    /// Runs `command`; `timeout` covers the draining of its output too, and zero means none. Of
    /// its output at most 16 MiB are kept, and what was dropped is said at the end of its stream.
    pub async fn exec_sync(&self, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let limit = if timeout.is_zero() {
            FOREVER
        } else {
            timeout.min(FOREVER)
        };
        let deadline = Instant::now() + limit;
        let streams = StdStreams {
            stdout: true,
            stderr: true,
            ..StdStreams::default()
        };
        let running = self.prepare(ExecRequest::of(command), streams).await?;
        match timeout_at(deadline, run(&running)).await {
            // What is left of it goes behind the answer.
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) => {
                running.release().await;
                Err(error)
            }
            Err(_) => {
                running.release().await;
                Err(Error::ExecTimeout {
                    command: command.join(" "),
                    timeout,
                })
            }
        }
    }
}

async fn run(command: &Command) -> Result<ExecOutput> {
    let Pipes { stdout, stderr, .. } = command.begin().await?;
    let shared = Shared::default();
    let (mut out, mut err) = (Kept::new(&shared), Kept::new(&shared));
    let (over, is_over) = watch::channel(false);
    let waiting = async {
        let exit = command.wait().await;
        over.send_replace(true);
        exit
    };
    let (exit, (), ()) = tokio::join!(
        waiting,
        drain(stdout, &mut out, is_over.clone()),
        drain(stderr, &mut err, is_over),
    );
    Ok(ExecOutput {
        exit_code: i32::try_from(exit?).unwrap_or(255),
        stdout: out.finish(),
        stderr: err.finish(),
    })
}

/// Reads to the end, or until the command is over and its output quiet.
async fn drain(
    pipe: Option<pipe::Receiver>,
    kept: &mut Kept<'_>,
    mut is_over: watch::Receiver<bool>,
) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = output::buffer();
    loop {
        let over = *is_over.borrow();
        let next = output::step(&mut pipe, &mut buffer, kept);
        let more = if over {
            timeout(QUIET, next).await.unwrap_or(false)
        } else {
            tokio::select! {
                biased;
                more = next => more,
                _ = is_over.changed() => true,
            }
        };
        if !more {
            return;
        }
    }
}
