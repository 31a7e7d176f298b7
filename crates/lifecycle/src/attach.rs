//! Clients on the streams of a running container: as many as want to, each with FIFOs of its own.

use std::path::PathBuf;
use std::sync::Arc;

use berth_shim_client::Shim;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::exec::{Fifos, Pipes, StdStreams, open_writer, unique};
use crate::undo::blocking;

/// Where one client has the output of a container: paths of FIFOs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outputs {
    pub stdout: Option<PathBuf>,
    pub stderr: Option<PathBuf>,
}

impl Outputs {
    fn of(fifos: &Fifos) -> Self {
        Self {
            stdout: fifos.stdout.clone(),
            stderr: fifos.stderr.clone(),
        }
    }
}

impl Container {
    /// Joins the container's streams from now on. Input for a container that was made without is
    /// not taken. Dropping the control lets go of it; with `stdin_once` its input ends then.
    pub async fn attach(&self, streams: StdStreams) -> Result<(Pipes, AttachControl)> {
        let shim = self.running("attach to it")?;
        let client = self.client(streams).await?;
        let outputs = Outputs::of(&client.fifos);
        if outputs.stdout.is_some() || outputs.stderr.is_some() {
            let (stdout, stderr) = (outputs.stdout.as_deref(), outputs.stderr.as_deref());
            let joined = shim.attach(None, stdout, stderr).await;
            joined.map_err(Error::of_shim("attach to", shim.id()))?;
        }
        self.joined(client, shim)
    }

    /// Starts the container with clients on its streams, who miss nothing of its output; the
    /// answers are in the order of `wanted`.
    pub async fn start_attached(
        &self,
        wanted: &[StdStreams],
    ) -> Result<Vec<(Pipes, AttachControl)>> {
        let mut clients = Vec::with_capacity(wanted.len());
        for streams in wanted {
            clients.push(self.client(*streams).await?);
        }
        let outputs = clients.iter().map(|client| Outputs::of(&client.fifos));
        let shim = self.start_before(outputs.collect()).await?;
        let joined = clients.into_iter();
        joined
            .map(|client| self.joined(client, Arc::clone(&shim)))
            .collect()
    }

    /// Makes the FIFOs of a client, and opens the ends that are read.
    async fn client(&self, streams: StdStreams) -> Result<Client> {
        let request = &self.view().request;
        let outputs = StdStreams {
            stdin: false,
            tty: request.tty,
            ..streams
        };
        let prefix = self.files.io().join(unique("attach"));
        let fifos = blocking("attach to", move || Fifos::create(&prefix, outputs)).await?;
        let (stdout, stderr) = fifos.readers()?;
        Ok(Client {
            takes_input: streams.stdin && request.stdin,
            closes: streams.stdin && request.stdin && request.stdin_once,
            stdout,
            stderr,
            fifos,
        })
    }

    fn joined(&self, client: Client, shim: Arc<Shim>) -> Result<(Pipes, AttachControl)> {
        let stdin = match client.takes_input {
            true => open_writer(&self.files.stdin())?,
            false => None,
        };
        let pipes = Pipes {
            stdin,
            stdout: client.stdout,
            stderr: client.stderr,
        };
        let control = AttachControl {
            closes: client.closes,
            watched: self.watch_shim(),
            shim,
        };
        Ok((pipes, control))
    }
}

/// A client whose FIFOs are there.
struct Client {
    takes_input: bool,
    /// The input ends with this client.
    closes: bool,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    fifos: Fifos,
}

/// What can be done to a container by one who is attached.
pub struct AttachControl {
    shim: Arc<Shim>,
    watched: watch::Receiver<Option<Arc<Shim>>>,
    /// The input ends with this client.
    closes: bool,
}

impl AttachControl {
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
