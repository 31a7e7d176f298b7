//! The machine's git: nothing of the machine's configuration has a part in it, it ends with who waits for
//! it, and what it makes on the disk is watched.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::Repository;
use crate::error::{Error, Result, blocking};

/// Bytes of git's own answers that are read.
const LARGEST_ANSWER: u64 = 1 << 20;
/// Between two looks at what a repository takes.
const LOOK: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Characters of what git complains of that people see.
const SHOWN: usize = 400;
/// What is fetched through, and nothing else of the daemon's environment.
const ENVIRONMENT: [&str; 13] = [
    "PATH",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "LANG",
];
const SETTINGS: [&str; 8] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.symlinks=true",
    "credential.helper=",
    "protocol.file.allow=never",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
    "advice.detachedHead=false",
];

/// What a repository may take while it is here.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub bytes: u64,
    pub entries: u64,
}

pub const LIMIT: Limit = Limit {
    bytes: 32 << 30,
    entries: 8_000_000,
};

/// A directory for as long as a repository is needed.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    limit: Limit,
}

impl Place {
    pub fn make(root: &Path, limit: Limit) -> Result<Self> {
        let path = root.join(format!("git-{:016x}", fastrand::u64(..)));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(Error::file("create", &path))?;
        Ok(Self { path, limit })
    }

    pub fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

pub struct Git<'a> {
    repository: &'a Repository,
    place: &'a Place,
    cancel: &'a CancellationToken,
}

impl<'a> Git<'a> {
    pub fn new(
        repository: &'a Repository,
        place: &'a Place,
        cancel: &'a CancellationToken,
    ) -> Self {
        Self {
            repository,
            place,
            cancel,
        }
    }

    pub fn failed(&self, problem: impl Into<String>) -> Error {
        Error::Git {
            url: self.repository.url.clone(),
            problem: problem.into(),
        }
    }

    fn command(&self, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let mut command = Command::new("git");
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.args(arguments).env_clear();
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("HOME", &self.place.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_ALLOW_PROTOCOL", "http:https:git")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// What git answers. It and what it started are gone when this returns.
    pub async fn run(&self, arguments: &[impl AsRef<std::ffi::OsStr>]) -> Result<String> {
        let mut child = self
            .command(arguments)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::invalid(
                    "git is not installed on this machine, and repositories are fetched by it: \
                     install git, or clone the repository and build the directory",
                ),
                _ => Error::file("start", "git")(error),
            })?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let _ends = Group(group);
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let ended = async {
            let (out, err) = tokio::join!(text(out), text(err));
            (child.wait().await, out, err)
        };
        let (status, out, err) = tokio::select! {
            ended = ended => ended,
            taken = self.beyond() => return Err(self.failed(taken)),
            () = tokio::time::sleep(LONGEST) => {
                return Err(self.failed(format!("it took more than {} minutes", LONGEST.as_secs() / 60)));
            }
            () = self.cancel.cancelled() => return Err(Error::Cancelled),
        };
        match status.map_err(Error::file("wait for", "git"))?.success() {
            true => Ok(out),
            false => {
                let problem: String = err.trim().chars().take(SHOWN).collect();
                Err(self.failed(problem))
            }
        }
    }

    /// Returns when the repository takes too much.
    async fn beyond(&self) -> String {
        loop {
            tokio::time::sleep(LOOK).await;
            let (path, limit) = (self.place.path.clone(), self.place.limit);
            let is_beyond = blocking("looking at a repository", move || {
                let mut left = limit;
                Ok(!fits(&path, &mut left))
            });
            if is_beyond.await.unwrap_or(false) {
                let Limit { bytes, entries } = self.place.limit;
                return format!("it takes more than {bytes} bytes or {entries} files");
            }
        }
    }
}

/// Whether what is at a path, and below it, is within what is left of a limit.
pub fn fits(path: &Path, left: &mut Limit) -> bool {
    let Ok(entries) = fs::read_dir(path) else {
        // It went away meanwhile.
        return true;
    };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let taken =
            (left.bytes.checked_sub(metadata.blocks() * 512)).zip(left.entries.checked_sub(1));
        let Some((bytes, entries)) = taken else {
            return false;
        };
        *left = Limit { bytes, entries };
        if metadata.is_dir() && !fits(&entry.path(), left) {
            return false;
        }
    }
    true
}

/// Ends everything of a process group.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The beginning of what is written; the rest is read, and let go.
async fn text(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else {
        return String::new();
    };
    let mut bytes = Vec::new();
    let _ended = (&mut from)
        .take(LARGEST_ANSWER)
        .read_to_end(&mut bytes)
        .await;
    let _ended = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}
