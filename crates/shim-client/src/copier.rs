//! The process that reads the output of a foreign shim's container: Berth's shim binary with
//! `copy`. It is started here, found again after a restart, and replaced when it dies: the FIFOs
//! keep what nobody read meanwhile, because the shim holds their other ends.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::empty::Empty;

use crate::error::{Error, path_error};
use crate::foreign::{Link, Output};
use crate::launcher::Launcher;
use crate::rpc::{Patience, Rpc};
use crate::socket;

/// The copier's socket, in the bundle. A copier that ended properly has removed it.
const SOCKET_NAME: &str = "copy.sock";
const CALL: Patience = Patience::Limited(Duration::from_secs(10));
/// Between the deaths of two copiers of one container.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the rest of an ended container's output may take to reach the log. It is not waited
/// for longer, because a process that left the container may hold its streams for ever.
const REST: Duration = Duration::from_secs(2);
const TASK_SERVICE: &str = "containerd.task.v2.Task";

/// The output of one container, and what its shim is told beside.
pub(crate) struct Copier {
    launcher: Arc<Launcher>,
    id: String,
    bundle: PathBuf,
    pub options: Option<(String, Vec<u8>)>,
    connection: RwLock<Option<Rpc>>,
}

impl Copier {
    pub fn new(
        launcher: Arc<Launcher>,
        id: &str,
        bundle: &Path,
        options: Option<(String, Vec<u8>)>,
    ) -> Arc<Self> {
        Arc::new(Self {
            launcher,
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            options,
            connection: RwLock::default(),
        })
    }

    /// Starts the copier; when this returns, it reads.
    pub async fn start(self: &Arc<Self>, output: Output) -> Result<(), Error> {
        if let Some(mut link) = Link::read(&self.bundle)? {
            link.output = Some(output.clone());
            link.write(&self.bundle)?;
        }
        self.launch(&output).await?;
        self.watch(output);
        Ok(())
    }

    /// Takes over the copier of an earlier daemon.
    pub async fn resume(self: &Arc<Self>, output: Output) -> Result<(), Error> {
        let path = self.socket();
        match socket::connect(&path).await {
            Ok(stream) => self.connected(Rpc::new(&self.id, stream)),
            // It ended with the output.
            Err(_) if !path.exists() => return Ok(()),
            Err(_) => self.launch(&output).await?,
        }
        self.watch(output);
        Ok(())
    }

    /// The connection for the calls that a foreign shim does not know.
    pub fn rpc(&self) -> Option<Rpc> {
        let connection = self.connection.read();
        connection.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The container has ended: waits until its last output is in the log.
    pub async fn finished(&self) {
        if let Some(rpc) = self.rpc() {
            let _late = tokio::time::timeout(REST, rpc.gone()).await;
        }
    }

    /// Ends whatever copier the bundle has.
    pub async fn end(id: &str, bundle: &Path) {
        let Ok(stream) = socket::connect(&bundle.join(SOCKET_NAME)).await else {
            return;
        };
        let mut message = api::ShutdownRequest::new();
        message.id = id.to_owned();
        message.now = true;
        let rpc = Rpc::new(id, stream);
        // It may end before it has answered.
        let _gone = rpc
            .call::<Empty>(TASK_SERVICE, "Shutdown", &message, CALL)
            .await;
    }

    pub async fn shutdown(&self) {
        Self::end(&self.id, &self.bundle).await;
    }

    fn socket(&self) -> PathBuf {
        self.bundle.join(SOCKET_NAME)
    }

    fn connected(&self, rpc: Rpc) {
        let connection = self.connection.write();
        *connection.unwrap_or_else(PoisonError::into_inner) = Some(rpc);
    }

    async fn launch(&self, output: &Output) -> Result<(), Error> {
        let path = self.socket();
        let listener = socket::bind(&path).map_err(path_error("bind", &path))?;
        let mut arguments: Vec<(&str, &Path)> =
            vec![("-bundle", &self.bundle), ("-stdout", &output.stdout)];
        arguments.extend(output.stderr.as_deref().map(|path| ("-stderr", path)));
        arguments.extend(output.log.as_deref().map(|path| ("-log", path)));
        arguments.push(("-socket", &path));
        self.launcher
            .launch_copier(&self.id, &self.bundle, listener, &arguments)?;
        let ended = || Error::Copier {
            id: self.id.clone(),
            reason: self.launcher.last_words(&self.bundle),
        };
        let Ok(stream) = socket::connect(&path).await else {
            // The socket listened before there was a copier: that one has ended already.
            let _none = std::fs::remove_file(&path);
            return Err(ended());
        };
        let rpc = Rpc::new(&self.id, stream);
        let mut message = api::StateRequest::new();
        message.id.clone_from(&self.id);
        // Answered once the FIFOs and the log are open.
        let answer = rpc
            .call::<api::StateResponse>(TASK_SERVICE, "State", &message, CALL)
            .await;
        if let Err(error) = answer {
            let _none = std::fs::remove_file(&path);
            return Err(match error.is_gone() {
                true => ended(),
                false => error,
            });
        }
        self.connected(rpc);
        Ok(())
    }

    /// Replaces the copier for as long as it dies instead of ending.
    fn watch(self: &Arc<Self>, output: Output) {
        let weak: Weak<Self> = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                let Some(rpc) = weak.upgrade().and_then(|copier| copier.rpc()) else {
                    return;
                };
                rpc.gone().await;
                let Some(copier) = weak.upgrade().filter(|copier| copier.socket().exists()) else {
                    return;
                };
                tracing::warn!(id = copier.id, "the log copier died: another takes over");
                if let Err(error) = copier.launch(&output).await {
                    tracing::error!(id = copier.id, %error, "output is not read any more");
                    return;
                }
                drop(copier);
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}
