//! Shims of others, by the start protocol of containerd's runtime v2: the
//! binary is run with `start`, leaves a server behind and prints its address.
//!
//! Such a shim knows FIFOs only. Their reader is a copier, a process of our own that outlives the
//! daemon as the shim does and serves the calls that other shims do not know; to callers both
//! together are one [`Shim`].

mod bootstrap;
mod link;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;

use crate::copier::Copier;
use crate::error::{Error, path_error};
use crate::launcher::Launcher;
use crate::shim::Shim;
use crate::types::{Exit, Stdio};
pub(crate) use link::{Endpoint, Link, Output};

const START: Duration = Duration::from_secs(30);
const LOG_SCHEME: &str = "cri-log://";

/// Another shim v2, such as `containerd-shim-runc-v2`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignShim {
    pub binary: PathBuf,
    pub namespace: String,
    /// Where the shim believes containerd's socket to be; its events go there,
    /// and nobody has to listen. Shims name their own sockets after it.
    pub address: PathBuf,
    /// What `Create` tells the shim about its runtime: a type URL and a message.
    pub options: Option<(String, Vec<u8>)>,
}

impl ForeignShim {
    /// With pipes that belong to another user than the daemon's, where the shim knows how.
    #[must_use]
    pub fn with_streams_of(mut self, uid: u32, gid: u32) -> Self {
        if let Some(options) = &mut self.options {
            crate::options::add_stream_owner(options, uid, gid);
        }
        self
    }

    /// Starts a shim for the bundle and connects to it. Its process belongs to
    /// init, or to the nearest subreaper, not to us.
    pub async fn launch(
        &self,
        launcher: &Arc<Launcher>,
        id: &str,
        bundle: &Path,
    ) -> Result<Shim, Error> {
        let mut link = Link {
            shim: self.clone(),
            endpoint: None,
            output: None,
        };
        // Written first: a start that is cut short is found, and taken back, by this.
        link.write(bundle)?;
        link.endpoint = match self.start(id, bundle).await {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                Launcher::forget(bundle);
                return Err(error);
            }
        };
        link.write(bundle)?;
        link.connect(launcher, id, bundle).await
    }

    async fn start(&self, id: &str, bundle: &Path) -> Result<Endpoint, Error> {
        let _reader = open_log_fifo(bundle)?;
        let output = self.run(id, bundle, "start", START).await?;
        let (version, socket) = bootstrap::parse(&output).ok_or_else(|| Error::Protocol {
            id: id.to_owned(),
            output: String::from_utf8_lossy(&output).chars().take(512).collect(),
        })?;
        Ok(Endpoint { version, socket })
    }

    async fn run(
        &self,
        id: &str,
        bundle: &Path,
        action: &'static str,
        limit: Duration,
    ) -> Result<Vec<u8>, Error> {
        let output = Command::new(&self.binary)
            .args(["-namespace", &self.namespace, "-id", id, "-address"])
            .arg(&self.address)
            .args(["-publish-binary", "/bin/true", "-bundle"])
            .arg(bundle)
            .arg(action)
            .env("TTRPC_ADDRESS", self.address.with_extension("sock.ttrpc"))
            .env("GRPC_ADDRESS", &self.address)
            .env("NAMESPACE", &self.namespace)
            .env("GOMAXPROCS", "2")
            .env("MAX_SHIM_VERSION", "3")
            .current_dir(bundle)
            .stdin(ProcessStdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(limit, output)
            .await
            .map_err(|_| Error::TimedOut {
                action,
                id: id.to_owned(),
            })?
            .map_err(|source| Error::Launch {
                id: id.to_owned(),
                source,
            })?;
        if !output.status.success() {
            return Err(Error::Action {
                action,
                id: id.to_owned(),
                status: output.status,
                output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        Ok(output.stdout)
    }
}

impl Link {
    /// Connects to a shim that was started. After a restart of the daemon its copier is found
    /// again, or, if it died, replaced.
    pub async fn connect(
        self,
        launcher: &Arc<Launcher>,
        id: &str,
        bundle: &Path,
    ) -> Result<Shim, Error> {
        let Some(Endpoint { version, socket }) = &self.endpoint else {
            return Err(Error::NotRunning {
                id: id.to_owned(),
                path: bundle.to_owned(),
                source: std::io::ErrorKind::NotConnected.into(),
            });
        };
        let log = open_log_fifo(bundle)?;
        let copier = Copier::new(Arc::clone(launcher), id, bundle, self.shim.options.clone());
        let resumed = Arc::clone(&copier);
        let shim = Shim::connect_foreign(id, bundle, socket, *version, copier).await?;
        if let Some(output) = self.output {
            resumed.resume(output).await?;
        }
        forward_log(log, shim.clone());
        Ok(shim)
    }

    /// Runs the binary's `delete`, which removes what a dead shim left, and ends the copier.
    pub async fn clean_up(
        self,
        launcher: &Arc<Launcher>,
        id: &str,
        bundle: &Path,
    ) -> Result<Exit, Error> {
        let socket = match &self.endpoint {
            Some(endpoint) => endpoint.socket.clone(),
            // A shim whose start was cut short may be there all the same: a second start finds it.
            None => {
                let endpoint = self.shim.start(id, bundle).await?;
                let copier = Copier::new(Arc::clone(launcher), id, bundle, None);
                let (socket, version) = (&endpoint.socket, endpoint.version);
                let shim = Shim::connect_foreign(id, bundle, socket, version, copier).await?;
                shim.shutdown().await?;
                endpoint.socket
            }
        };
        Copier::end(id, bundle).await;
        let deleted = self.shim.run(id, bundle, "delete", START).await;
        // A shim that was killed could not remove its socket.
        let _ = std::fs::remove_file(socket);
        Exit::of_deletion(id, &deleted?)
    }
}

/// From streams as Berth's own shim takes them to FIFOs, which are made.
pub(crate) fn output(bundle: &Path, stdio: &Stdio) -> Result<(Stdio, Output), Error> {
    let log = [&stdio.stdout, &stdio.stderr]
        .into_iter()
        .find_map(|target| target.strip_prefix(LOG_SCHEME))
        .map(PathBuf::from);
    let fifo = |name: &str, target: &str| {
        // A FIFO that the caller reads itself stays what it is.
        if target.starts_with('/') {
            return Ok(PathBuf::from(target));
        }
        let path = bundle.join(name);
        make_fifo(&path)?;
        Ok(path)
    };
    let stdout = fifo("stdout", &stdio.stdout)?;
    let stderr = match stdio.terminal {
        true => None,
        false => Some(fifo("stderr", &stdio.stderr)?),
    };
    let text = |path: &Path| path.display().to_string();
    let told = Stdio {
        terminal: stdio.terminal,
        stdin: stdio.stdin.clone(),
        stdout: text(&stdout),
        stderr: stderr.as_deref().map(text).unwrap_or_default(),
    };
    let output = Output {
        stdout,
        stderr,
        log,
    };
    Ok((told, output))
}

fn make_fifo(path: &Path) -> Result<(), Error> {
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(source) => Err(path_error("create FIFO", path)(source.into())),
    }
}

/// Shims of this protocol log to a FIFO named `log` in the bundle, and some do
/// not start before somebody reads it. Opened for writing too, so that it does
/// not end before the shim has opened it.
fn open_log_fifo(bundle: &Path) -> Result<Receiver, Error> {
    let path = bundle.join("log");
    make_fifo(&path)?;
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened: OwnedFd = rustix::fs::open(&path, flags, Mode::empty())
        .map_err(|source| path_error("open", &path)(source.into()))?;
    Receiver::from_owned_fd(opened).map_err(path_error("open", &path))
}

/// Copies the shim's lines to our own log as long as it lives.
fn forward_log(log: Receiver, shim: Shim) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(log).lines();
        loop {
            tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => tracing::debug!(id = shim.id(), line, "foreign shim"),
                    Ok(None) | Err(_) => return,
                },
                () = shim.gone() => return,
            }
        }
    });
}
