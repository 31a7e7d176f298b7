//! A private berthd.

use std::fs::{File, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{end, retry};
use crate::place::Place;
use crate::{tools, workspace};

/// In an emulated machine, beside another one, a program of the profile of tests takes its time to be read.
const START: Duration = Duration::from_secs(240);
const STOP: Duration = Duration::from_secs(20);

/// Ends with its value; containers go on.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Returns once it answers on its socket. Output is appended to `log`.
    pub fn start(place: &Place, log: &Path) -> Result<Self> {
        Self::start_from(&workspace::artefacts(), place, log)
    }

    /// Like `start`, with the programs in this directory.
    pub fn start_from(programs: &Path, place: &Place, log: &Path) -> Result<Self> {
        let mut daemon = Self::spawn(programs, place, log, &[])?;
        daemon
            .wait_until_ready()
            .with_context(|| format!("see {}", log.display()))?;
        Ok(daemon)
    }

    /// Starts it with variables in its environment, and does not wait for anything.
    pub fn spawn(
        programs: &Path,
        place: &Place,
        log: &Path,
        variables: &[(&str, String)],
    ) -> Result<Self> {
        let program = programs.join("berthd");
        let output = append(log)?;
        let child = Command::new(&program)
            .arg("--config")
            .arg(place.config())
            .arg("--root")
            .arg(place.root())
            .arg("--state")
            .arg(place.state())
            .arg("--socket")
            .arg(place.socket())
            .arg("--hosts-dir")
            .arg(place.hosts())
            .arg("--cni-conf-dir")
            .arg(place.cni_conf())
            .arg("--cni-bin-dir")
            .arg(tools::path(tools::Tool::CniPlugins)?)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(
                output
                    .try_clone()
                    .context("sharing the log of the daemon")?,
            )
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self {
            child,
            socket: place.socket(),
        })
    }

    /// As clients are told it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end.
    pub fn stop(mut self) -> Result<()> {
        let status = end(&mut self.child, STOP)?;
        if !status.success() {
            bail!("berthd ended with {status}");
        }
        Ok(())
    }

    /// Ends it without a chance to put things in order.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("killing berthd")?;
        self.child.wait().context("waiting for berthd").map(drop)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("pid of berthd")?;
        let pid = Pid::from_raw(pid).context("pid of berthd")?;
        kill_process(pid, signal).context("signalling berthd")
    }

    /// Whether it has ended, by itself or by somebody's hand.
    pub fn has_ended(&mut self) -> Result<bool> {
        let status = self.child.try_wait().context("looking at berthd")?;
        Ok(status.is_some())
    }

    /// Waits until it answers on its socket; an error once it has ended.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        retry(START, || {
            if let Some(status) = self.child.try_wait().context("looking at berthd")? {
                return Ok(Err(status));
            }
            let answer = UnixStream::connect(&self.socket);
            answer
                .map(|_| Ok(()))
                .with_context(|| format!("connecting to {}", self.endpoint()))
        })?
        .or_else(|status| bail!("berthd ended with {status}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = end(&mut self.child, STOP) {
            eprintln!("ending berthd: {error:#}");
        }
    }
}

fn append(log: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening {}", log.display()))
}
