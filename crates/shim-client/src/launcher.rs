//! Launching Berth's own shim: a copy of one that waits, and the socket is there before it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;

use crate::error::{Error, path_error};
use crate::foreign::Link;
use crate::shim::{SOCKET_NAME, Shim};
use crate::socket;
use crate::types::Exit;
use crate::zygote::Zygote;

/// What a shim writes its own messages to, in the bundle.
const LOG_NAME: &str = "shim.log";
/// How long `delete` of the shim binary may take.
const CLEAN_UP: Duration = Duration::from_secs(15);
/// The shim's heap is small and lives long: no spare memory at its end, and
/// large blocks go back to the kernel when they are freed.
const MALLOC: &str = "glibc.malloc.trim_threshold=16384:glibc.malloc.top_pad=4096:\
                      glibc.malloc.mmap_threshold=32768:glibc.malloc.arena_max=1";

/// Launches shims from one sealed binary.
#[derive(Debug)]
pub struct Launcher {
    binary: PathBuf,
    /// Where the binary is executed from; keeps the view's descriptor open.
    executable: PathBuf,
    sealed: Option<OwnedFd>,
    zygote: Zygote,
}

impl Launcher {
    /// Opens the binary once, through a read-only view of its own if the kernel
    /// grants one: a container that gets hold of `/proc/<shim>/exe` cannot
    /// write to it, and an upgrade that replaces the file does not change what
    /// this daemon runs. Without a view the plain path is executed.
    pub fn new(shim_binary: &Path) -> Result<Self, Error> {
        let binary = std::fs::canonicalize(shim_binary)
            .map_err(path_error("find shim binary", shim_binary))?;
        let sealed = match berth_kernel::read_only_view(&binary) {
            Ok(view) => Some(view),
            Err(error) => {
                tracing::warn!(%error, binary = %binary.display(), "the shim binary is not sealed");
                None
            }
        };
        let executable = match &sealed {
            Some(view) => format!("/proc/self/fd/{}", view.as_raw_fd()).into(),
            None => binary.clone(),
        };
        Ok(Self {
            binary,
            executable,
            sealed,
            zygote: Zygote::default(),
        })
    }

    /// Whether shims run from a read-only view.
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Does what has to be done once before the first shim; a failure is told by the first launch.
    pub async fn warm_up(&self) {
        if let Err(error) = self.zygote.start(|| self.command()).await {
            tracing::warn!(%error, "the zygote does not start");
        }
    }

    /// Starts a shim for the container and connects to it. The socket listens
    /// before the process exists, so nothing is waited for but the process's
    /// number.
    pub async fn launch(&self, id: &str, bundle: &Path) -> Result<Shim, Error> {
        let path = bundle.join(SOCKET_NAME);
        let listener = socket::bind(&path).map_err(path_error("bind", &path))?;
        berth_faults::passing("shim.launch.after-bind");
        let log = open_log(&bundle.join(LOG_NAME))?;
        let copying = self
            .zygote
            .copy(|| self.command(), id, listener.into(), log.into());
        let pid = copying.await.map_err(|source| {
            let _ = std::fs::remove_file(&path);
            let id = id.to_owned();
            Error::Launch { id, source }
        })?;
        berth_faults::passing("shim.launch.after-spawn");
        let pid = u32::try_from(pid.as_raw_pid()).ok();
        Shim::connect_to(id, bundle, &path, 2, pid).await
    }

    /// Connects to the shim of a bundle, ours or another, after a restart of the daemon. Fails with
    /// [`Error::NotRunning`] if none is there.
    pub async fn connect(self: &Arc<Self>, id: &str, bundle: &Path) -> Result<Shim, Error> {
        match Link::read(bundle)? {
            Some(link) => link.connect(self, id, bundle).await,
            None => Shim::connect(id, bundle).await,
        }
    }

    /// Whether a shim was started for the bundle; it may have died since.
    pub fn has_launched(bundle: &Path) -> bool {
        bundle.join(SOCKET_NAME).exists() || Link::is_there(bundle)
    }

    /// The bundle's shim is gone for good: the next start is the first one again.
    pub fn forget(bundle: &Path) {
        for trace in [bundle.join(SOCKET_NAME), Link::path(bundle)] {
            // Mostly there was only one of them.
            let _missing = std::fs::remove_file(trace);
        }
    }

    /// Kills and removes what a dead shim left: the container's processes and its cgroup, and
    /// mounts below the bundle. Doing it twice is harmless. Returns how the container ended, as far
    /// as the shim left word of it.
    pub async fn clean_up(self: &Arc<Self>, id: &str, bundle: &Path) -> Result<Exit, Error> {
        match Link::read(bundle)? {
            Some(link) => link.clean_up(self, id, bundle).await,
            None => self.delete(id, bundle).await,
        }
    }

    /// Starts the copier of a foreign shim's output on a socket that listens already.
    pub(crate) fn launch_copier(
        &self,
        id: &str,
        bundle: &Path,
        listener: std::os::unix::net::UnixListener,
        arguments: &[(&str, &Path)],
    ) -> Result<(), Error> {
        let mut command = self.command();
        command.args(["-id", id]);
        for (flag, value) in arguments {
            command.arg(flag).arg(value);
        }
        let mut child = command
            .arg("copy")
            .stdin(ProcessStdio::from(OwnedFd::from(listener)))
            .stdout(ProcessStdio::null())
            .stderr(ProcessStdio::from(open_log(&bundle.join(LOG_NAME))?))
            .spawn()
            .map_err(|source| {
                let id = id.to_owned();
                Error::Launch { id, source }
            })?;
        tokio::spawn(async move { child.wait().await });
        Ok(())
    }

    /// The last line that one of our processes left in the bundle's log.
    pub(crate) fn last_words(&self, bundle: &Path) -> String {
        let text = std::fs::read_to_string(bundle.join(LOG_NAME)).unwrap_or_default();
        text.lines().last().unwrap_or("no reason given").to_owned()
    }

    /// What `clean_up` does for Berth's own shim: by the path of the cgroup in the bundle's
    /// `config.json`. Returns how the container ended, by the shim's record if it wrote one.
    async fn delete(&self, id: &str, bundle: &Path) -> Result<Exit, Error> {
        const ACTION: &str = "delete";
        let output = self
            .command()
            .args(["-id", id, "-bundle"])
            .arg(bundle)
            .arg(ACTION)
            .stdin(ProcessStdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(CLEAN_UP, output)
            .await
            .map_err(|_| Error::TimedOut {
                action: ACTION,
                id: id.to_owned(),
            })?
            .map_err(|source| Error::Launch {
                id: id.to_owned(),
                source,
            })?;
        if !output.status.success() {
            return Err(Error::Action {
                action: ACTION,
                id: id.to_owned(),
                status: output.status,
                output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        Exit::of_deletion(id, &output.stdout)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("GLIBC_TUNABLES", MALLOC);
        command
    }
}

fn open_log(path: &Path) -> Result<std::fs::File, Error> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(path_error("open", path))
}
