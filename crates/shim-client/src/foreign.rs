//! Shims of others, by the start protocol of containerd's runtime v2: the
//! binary is run with `start`, leaves a server behind and prints its address,
//! either bare or as JSON with the version of the Task API.

use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio::process::Command;

use crate::error::{Error, path_error};
use crate::shim::Shim;

const START: Duration = Duration::from_secs(30);

/// Another shim v2, such as `containerd-shim-runc-v2`.
#[derive(Debug, Clone)]
pub struct ForeignShim {
    pub binary: PathBuf,
    pub namespace: String,
    /// Where the shim believes containerd's socket to be; its events go there,
    /// and nobody has to listen.
    pub address: PathBuf,
}

/// What newer shims print.
#[derive(Debug, Deserialize)]
struct Bootstrap {
    version: u32,
    address: String,
    protocol: String,
}

impl ForeignShim {
    /// Starts a shim for the bundle and connects to it. Its process belongs to
    /// init, or to the nearest subreaper, not to us.
    pub async fn launch(&self, id: &str, bundle: &Path) -> Result<Shim, Error> {
        let log = open_log_fifo(bundle)?;
        let protocol = |output: &str| Error::Protocol {
            id: id.to_owned(),
            output: output.chars().take(512).collect(),
        };
        let output = self.run(id, bundle, "start", START).await?;
        let text = String::from_utf8_lossy(&output);
        let (version, path) = parse(text.trim()).ok_or_else(|| protocol(&text))?;
        let shim = Shim::connect_to(id, bundle, &path, version, None).await?;
        forward_log(log, shim.clone());
        Ok(shim)
    }

    /// Runs the binary's `delete`, which removes what a dead shim left.
    pub async fn clean_up(&self, id: &str, bundle: &Path) -> Result<(), Error> {
        self.run(id, bundle, "delete", START).await.map(drop)
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

/// Version of the Task API and path of the socket.
fn parse(text: &str) -> Option<(u32, PathBuf)> {
    let (version, address) = match serde_json::from_str::<Bootstrap>(text) {
        Ok(bootstrap) if bootstrap.protocol == "ttrpc" => (bootstrap.version, bootstrap.address),
        Ok(_) => return None,
        Err(_) => (2, text.to_owned()),
    };
    let path = PathBuf::from(address.strip_prefix("unix://")?);
    // An abstract socket has no owner and no mode.
    (path.is_absolute() && matches!(version, 2 | 3)).then_some((version, path))
}

/// Shims of this protocol log to a FIFO named `log` in the bundle, and some do
/// not start before somebody reads it. Opened for writing too, so that it does
/// not end before the shim has opened it.
fn open_log_fifo(bundle: &Path) -> Result<Receiver, Error> {
    let path = bundle.join("log");
    match rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(source) => return Err(path_error("create FIFO", &path)(source.into())),
    }
    OpenOptions::new()
        .read_write(true)
        .open_receiver(&path)
        .map_err(path_error("open", &path))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_start_answer_are_understood() {
        let json = |version: u32, address: &str, protocol: &str| {
            format!(r#"{{"version":{version},"address":"{address}","protocol":"{protocol}"}}"#)
        };
        for (text, expected) in [
            ("unix:///run/s/1".to_owned(), Some((2, "/run/s/1"))),
            (json(3, "unix:///run/s/2", "ttrpc"), Some((3, "/run/s/2"))),
            (json(2, "unix:///run/s/3", "ttrpc"), Some((2, "/run/s/3"))),
            (json(3, "unix:///run/s/2", "grpc"), None),
            (json(9, "unix:///run/s/2", "ttrpc"), None),
            (json(3, "unix://@abstract", "ttrpc"), None),
            (String::new(), None),
            ("/run/s/1".to_owned(), None),
            ("vsock://2:1".to_owned(), None),
        ] {
            let expected = expected.map(|(version, path)| (version, PathBuf::from(path)));
            assert_eq!(parse(&text), expected, "{text}");
        }
    }
}
