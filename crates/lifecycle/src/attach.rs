//! Clients on the streams of a running container: as many as want to, each with FIFOs of its own.

use std::path::Path;
use std::sync::Arc;

use berth_shim_client::Shim;
use tokio::sync::watch;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::exec::{Fifos, Pipes, StdStreams, open_writer, unique};
use crate::undo::blocking;

impl Container {
    /// Joins the container's streams from now on. Input for a container that was made without is
    /// not taken. Dropping the control lets go of it; with `stdin_once` its input ends then.
    pub async fn attach(&self, streams: StdStreams) -> Result<(Pipes, AttachControl)> {
        let shim = self.running("attach to it")?;
        let request = &self.view().request;
        let outputs = StdStreams {
            stdin: false,
            tty: request.tty,
            ..streams
        };
        let takes_input = streams.stdin && request.stdin;
        let control = AttachControl {
            closes: takes_input && request.stdin_once,
            watched: self.watch_shim(),
            shim,
        };
        let prefix = self.files.io().join(unique("attach"));
        let fifos = blocking("attach to", move || Fifos::create(&prefix, outputs)).await?;
        let (stdout, stderr) = fifos.readers()?;
        control
            .join(fifos.stdout.as_deref(), fifos.stderr.as_deref())
            .await?;
        let stdin = if takes_input {
            open_writer(&self.files.stdin())?
        } else {
            None
        };
        let pipes = Pipes {
            stdin,
            stdout,
            stderr,
        };
        Ok((pipes, control))
    }
}

/// What can be done to a container by one who is attached.
pub struct AttachControl {
    shim: Arc<Shim>,
    watched: watch::Receiver<Option<Arc<Shim>>>,
    /// The input ends with this client.
    closes: bool,
}

impl AttachControl {
    async fn join(&self, stdout: Option<&Path>, stderr: Option<&Path>) -> Result<()> {
        if stdout.is_none() && stderr.is_none() {
            return Ok(());
        }
        let joined = self.shim.attach(None, stdout, stderr).await;
        joined.map_err(|source| self.failed("attach to", source))
    }

    fn failed(&self, action: &'static str, source: berth_shim_client::Error) -> Error {
        let id = self.shim.id().to_owned();
        Error::Shim { action, id, source }
    }

    pub async fn resize(&self, width: u16, height: u16) -> Result<()> {
        self.shim
            .resize_pty(None, width.into(), height.into())
            .await
            .map_err(|source| self.failed("resize the terminal of", source))
    }

    /// For when our writer is closed. Only a container with `stdin_once` sees the end of its
    /// input: others wait for the next client's.
    pub async fn close_stdin(&self) -> Result<()> {
        if !self.closes {
            return Ok(());
        }
        let closed = self.shim.close_stdin(None).await;
        closed.map_err(|source| self.failed("close the input of", source))
    }

    /// Completes when the container has ended.
    pub async fn ended(&self) {
        let mut watched = self.watched.clone();
        // An error means that the container is removed.
        let _ = watched.wait_for(Option::is_none).await;
    }
}

impl Drop for AttachControl {
    fn drop(&mut self) {
        if !self.closes {
            return;
        }
        let shim = Arc::clone(&self.shim);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // A container that has ended needs it no more.
                let _ = shim.close_stdin(None).await;
            });
        }
    }
}
