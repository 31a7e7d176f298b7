//! One run of one plugin: environment and configuration in, JSON or a complaint out, within a
//! deadline, and with nothing that it says kept beyond a bound.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::result::Complaint;
use crate::error::{Error, Result};

/// Results are a few kilobytes; beyond this an answer is no result.
const ANSWER_LIMIT: usize = 1024 * 1024;
const STDERR_LIMIT: usize = 4 * 1024;
/// How much of a nonsensical answer is worth showing.
const EXCERPT: usize = 256;
/// How long pipes may stay open once the plugin itself has ended: whoever still holds them is a
/// process that it left behind, and has nothing to say.
const LINGER: Duration = Duration::from_secs(1);
/// Attempts at a plugin that is just being installed.
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Ours alone: a plugin must not answer the service manager for us.
const WITHHELD: [&str; 3] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"];

/// What a plugin is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Status,
    Gc,
}

impl Verb {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Status => "STATUS",
            Self::Gc => "GC",
        }
    }
}

#[derive(Debug)]
pub(super) struct Call<'a> {
    pub plugin: &'a str,
    pub verb: Verb,
    /// CNI_ variables besides CNI_COMMAND and CNI_PATH.
    pub environment: &'a [(&'static str, String)],
    pub input: Vec<u8>,
}

/// Where plugins are and how long they may take.
#[derive(Debug)]
pub(super) struct Plugins {
    pub directories: Vec<PathBuf>,
    pub deadline: Duration,
}

impl Plugins {
    /// Runs the plugin; returns what it wrote to its standard output.
    pub(super) async fn run(&self, call: Call<'_>) -> Result<Vec<u8>> {
        let path = self.find(call.plugin)?;
        let broken = |source| Error::PluginRun {
            plugin: call.plugin.to_owned(),
            command: call.verb.name(),
            source,
        };
        let mut child = self.spawn(&path, &call).await.map_err(broken)?;
        let (mut answer, mut stderr) = (Vec::new(), Vec::new());
        let driven = timeout(
            self.deadline,
            drive(&mut child, &call.input, &mut answer, &mut stderr),
        )
        .await;
        let stderr = clip(&stderr, STDERR_LIMIT);
        match driven {
            Ok(status) => self.judge(&call, status.map_err(broken)?, answer, stderr),
            Err(_) => {
                kill_group(&mut child).await;
                Err(Error::PluginTimeout {
                    plugin: call.plugin.to_owned(),
                    command: call.verb.name(),
                    seconds: self.deadline.as_secs(),
                    stderr,
                })
            }
        }
    }

    fn judge(
        &self,
        call: &Call<'_>,
        status: ExitStatus,
        answer: Vec<u8>,
        stderr: String,
    ) -> Result<Vec<u8>> {
        if status.success() && answer.len() <= ANSWER_LIMIT {
            if !stderr.is_empty() {
                tracing::debug!(plugin = call.plugin, stderr, "a CNI plugin said");
            }
            return Ok(answer);
        }
        if status.success() {
            return Err(garbled(call.plugin, call.verb, &answer, stderr));
        }
        let complaint = Complaint::parse(&answer);
        if call.verb == Verb::Del && complaint.as_ref().is_some_and(Complaint::nothing_there) {
            return Ok(Vec::new());
        }
        Err(Error::PluginFailed {
            plugin: call.plugin.to_owned(),
            command: call.verb.name(),
            code: complaint.as_ref().map(|complaint| complaint.code),
            message: complaint.map_or_else(
                || match clip(&answer, EXCERPT) {
                    said if said.is_empty() => status.to_string(),
                    said => format!("{status}: {said}"),
                },
                |complaint| complaint.words(),
            ),
            stderr,
        })
    }

    fn find(&self, plugin: &str) -> Result<PathBuf> {
        let runnable = |path: &Path| {
            path.metadata()
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        };
        self.directories
            .iter()
            .map(|directory| directory.join(plugin))
            .find(|path| runnable(path))
            .ok_or_else(|| Error::PluginMissing {
                plugin: plugin.to_owned(),
                searched: self.directories.clone(),
            })
    }

    async fn spawn(&self, path: &Path, call: &Call<'_>) -> std::io::Result<Child> {
        let search: Vec<_> = self
            .directories
            .iter()
            .map(|directory| directory.to_string_lossy())
            .collect();
        let mut command = Command::new(path);
        command
            .env("CNI_COMMAND", call.verb.name())
            .env("CNI_PATH", search.join(":"))
            .envs(
                call.environment
                    .iter()
                    .map(|(name, value)| (*name, value.as_str())),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it starts can be ended with it.
            .process_group(0)
            .kill_on_drop(true);
        for name in WITHHELD {
            command.env_remove(name);
        }
        let mut tries = 0;
        loop {
            match command.spawn() {
                Err(error)
                    if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                        && tries < BUSY_TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                other => return other,
            }
        }
    }
}

/// A plugin's answer that is not what the specification says.
pub(super) fn garbled(plugin: &str, verb: Verb, answer: &[u8], stderr: String) -> Error {
    Error::PluginGarbled {
        plugin: plugin.to_owned(),
        command: verb.name(),
        answer: clip(answer, EXCERPT),
        stderr,
    }
}

async fn drive(
    child: &mut Child,
    input: &[u8],
    answer: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
) -> std::io::Result<ExitStatus> {
    let (stdin, stdout, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A plugin that ends without reading is judged by how it ends.
            let _ = stdin.write_all(input).await;
        }
    };
    let mut talk = pin!(async {
        tokio::join!(
            feed,
            drain(stdout, answer, ANSWER_LIMIT + 1),
            drain(errors, stderr, STDERR_LIMIT)
        )
    });
    tokio::select! {
        status = child.wait() => {
            let _ = timeout(LINGER, talk).await;
            status
        }
        _ = &mut talk => child.wait().await,
    }
}

/// Reads to the end, so that the writer never blocks, and keeps the first `limit` bytes.
async fn drain(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, limit: usize) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = limit.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(&buffer[..room]);
    }
}

/// Ends the plugin and all that it started. It has not been waited for yet, so that the group's
/// number cannot have become another's.
async fn kill_group(child: &mut Child) {
    if let Some(group) = child.id().and_then(|id| Pid::from_raw(id as i32)) {
        // Failing means that the group is gone.
        let _ = kill_process_group(group, Signal::KILL);
    }
    // A process that even SIGKILL does not end hangs in the kernel; the runtime reaps it later.
    let _ = timeout(LINGER, child.wait()).await;
}

fn clip(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(limit)])
        .trim()
        .to_owned()
}
