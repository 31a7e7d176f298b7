//! The FIFOs between the daemon and a process, in the container's `io` directory.

use std::path::{Path, PathBuf};

use berth_shim_client::Stdio;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use tokio::net::unix::pipe;

use super::StdStreams;
use crate::error::{Error, Result};

/// FIFOs of one process or one client, removed when dropped.
#[derive(Debug)]
pub(crate) struct Fifos {
    pub stdin: Option<PathBuf>,
    pub stdout: Option<PathBuf>,
    pub stderr: Option<PathBuf>,
    terminal: bool,
}

impl Fifos {
    /// Blocking.
    pub fn create(prefix: &Path, streams: StdStreams) -> Result<Self> {
        let path = |wanted: bool, end: &str| wanted.then(|| prefix.with_extension(end));
        // A terminal's output has to be taken by somebody even if the client does not want it:
        // the shim does that.
        let fifos = Self {
            stdin: path(streams.stdin, "in"),
            stdout: path(streams.stdout, "out"),
            stderr: path(streams.stderr && !streams.tty, "err"),
            terminal: streams.tty,
        };
        fifos
            .paths()
            .try_for_each(|path| make_fifo(path).map(drop))?;
        Ok(fifos)
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.stdin, &self.stdout, &self.stderr]
            .into_iter()
            .flatten()
    }

    pub fn stdio(&self) -> Stdio {
        let text = |path: &Option<PathBuf>| {
            path.as_ref()
                .map_or(String::new(), |path| path.display().to_string())
        };
        Stdio {
            terminal: self.terminal,
            stdin: text(&self.stdin),
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
        }
    }

    /// Opened before a writer is there, so that nothing that it writes is lost; nothing is to be
    /// read before one is there, as that would be the end.
    pub fn readers(&self) -> Result<(Option<pipe::Receiver>, Option<pipe::Receiver>)> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(open_reader).transpose();
        Ok((open(&self.stdout)?, open(&self.stderr)?))
    }

    /// `None` as well when the process has ended already.
    pub fn writer(&self) -> Result<Option<pipe::Sender>> {
        match &self.stdin {
            Some(path) => open_writer(path),
            None => Ok(None),
        }
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        for path in self.paths() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Blocking. False when it was there already.
pub(crate) fn make_fifo(path: &Path) -> Result<bool> {
    let mode = Mode::RUSR | Mode::WUSR;
    match mknodat(CWD, path, FileType::Fifo, mode, 0) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(failed("create the FIFO", path, errno.into())),
    }
}

fn open_reader(path: &Path) -> Result<pipe::Receiver> {
    pipe::OpenOptions::new()
        .open_receiver(path)
        .map_err(|source| failed("open the FIFO", path, source))
}

/// `None`: nobody reads, the process has ended.
pub(crate) fn open_writer(path: &Path) -> Result<Option<pipe::Sender>> {
    match pipe::OpenOptions::new().open_sender(path) {
        Ok(sender) => Ok(Some(sender)),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => Ok(None),
        Err(source) => Err(failed("open the FIFO", path, source)),
    }
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::State {
        action,
        path: path.to_owned(),
        source,
    }
}
