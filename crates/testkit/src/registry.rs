//! A registry in this process, that misbehaves on demand.
//!
//! It speaks enough of the distribution protocol to be pulled from and pushed to, on a free
//! loopback port, keeps everything in memory, remembers every request with its headers, and has a
//! switch for each fault that clients must survive ([`Behaviour`]).
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use berth_testkit::registry::{Outage, Registry};
//!
//! let registry = Registry::start().await?;
//! let layer = registry.add_blob("layer");
//! registry.behave(|b| b.outage = Some(Outage { times: 2, status: 503, retry_after: None }));
//! println!("pull from {} and look at {:?}", registry.host(), registry.requests());
//! # Ok(())
//! # }
//! ```

mod behaviour;
mod body;
mod guard;
mod serve;
mod storage;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use berth_names::Digest;
use bytes::Bytes;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

pub use behaviour::{Auth, Behaviour, Break, Outage, Seen};
use guard::Tokens;
use storage::Storage;

/// A running registry. It and its connections end when this is dropped.
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

#[derive(Default)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    storage: Mutex<Storage>,
    tokens: Mutex<Tokens>,
    seen: Mutex<Vec<Seen>>,
}

impl Registry {
    /// Starts on a free port of 127.0.0.1, as a task of the current tokio runtime.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let server = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Ok(Self {
            address,
            shared,
            server,
        })
    }

    /// `127.0.0.1:<port>`, as it stands in an image's name.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how requests are answered from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.behaviour.lock());
    }

    /// Stores a blob; every repository has it.
    pub fn add_blob(&self, bytes: impl Into<Bytes>) -> Digest {
        self.shared.storage.lock().add_blob(bytes.into())
    }

    /// Stores a manifest in a repository, by digest and, where given, under a tag.
    pub fn add_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> Digest {
        self.shared
            .storage
            .lock()
            .add_manifest(repository, tag, media_type, bytes.into())
    }

    /// Makes what is served under a digest other bytes than belong to it.
    pub fn replace(&self, digest: &Digest, bytes: impl Into<Bytes>) {
        self.shared.storage.lock().replace(digest, bytes.into());
    }

    /// Everything that was asked so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// Returns what was asked and forgets it.
    pub fn take_requests(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.shared.seen.lock())
    }

    /// Tokens issued so far are no longer accepted.
    pub fn revoke_tokens(&self) {
        self.shared.tokens.lock().revoke();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections are tasks of this set, so that they end with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(|request| serve::answer(&shared, request));
            // A client that goes away is none of our business.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}
