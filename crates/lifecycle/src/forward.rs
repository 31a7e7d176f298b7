//! Connections to ports inside a pod.

use std::path::PathBuf;

use berth_names::SandboxId;
use tokio::net::TcpStream;

use crate::error::{Error, Result};
use crate::request::Scope;
use crate::runtime::Runtime;

impl Runtime {
    /// Where the network namespace of a pod that has one of its own is pinned.
    pub fn netns(&self, pod: &SandboxId) -> PathBuf {
        self.core.pod_files(pod).netns()
    }

    /// Connects to a TCP port on the loopback of the pod's network, which may be the host's.
    pub async fn dial(&self, pod: &str, port: u16) -> Result<TcpStream> {
        let pod = self.core.pod(pod)?;
        let record = pod.ready("forward a port")?;
        let own = record.request.namespaces.network != Scope::Node;
        let netns = own.then(|| self.core.pod_files(pod.id()).netns());
        berth_network::dial(netns.as_deref(), port)
            .await
            .map_err(|source| Error::Network {
                id: pod.id().clone(),
                source,
            })
    }
}
