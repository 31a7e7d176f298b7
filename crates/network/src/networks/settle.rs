//! Asking plugins, and giving back what they were asked for.
//!
//! ```text
//!   took:    ledger ─▶ RequestAddress ─▶ CreateEndpoint ─▶ Join ─▶ into the container ─▶ …WayOut
//!   settle:  …WayOut ─▶ Leave ─▶ out of the container ─▶ DeleteEndpoint ─▶ ReleaseAddress ─▶ ledger
//! ```
//!
//! Settling goes on behind until it is done. A plugin that refuses is not asked again; one that is
//! away is, and what follows waits for it.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_names::{EndpointId, NetworkId};
use berth_plugins::{Error as PluginError, IpamDriver, NetworkDriver, Patience, Plugins};

use super::Inner;
use super::ledger::{Entry, Step};
use super::member::Membership;
use super::moved;
use crate::error::{Error, Result};
use crate::threads;

/// How long the end of a run, and a disconnection, wait for a plugin; it goes on behind.
pub(super) const WAIT: Duration = Duration::from_secs(10);
/// Between attempts, and how long that grows.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);

type Asked<T> = std::result::Result<T, PluginError>;

impl Inner {
    /// Asks a plugin. The caller's thread may be in any namespace: the runtime's are in the host's.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        (action, name): (&'static str, &str),
        question: impl Future<Output = Asked<T>> + Send + 'static,
    ) -> Result<T> {
        let asked = self.runtime.block_on(self.runtime.spawn(question));
        let answer = asked.map_err(|_| Error::TaskLost { task: "plugin" })?;
        answer.map_err(|cause| Error::Plugged {
            action,
            name: name.to_owned(),
            cause: Box::new(cause),
        })
    }

    /// The same, with the step written down first. One that came to nothing is struck out.
    pub(super) fn ask_for<T: Send + 'static>(
        &self,
        (owner, step): (&str, Step),
        what: (&'static str, &str),
        question: impl Future<Output = Asked<T>> + Send + 'static,
    ) -> Result<T> {
        self.ledger.add(owner, step)?;
        let answer = self.ask(what, question);
        if let Err(Error::Plugged { cause, .. }) = &answer
            && cause.did_nothing()
        {
            self.ledger.change(owner, |steps| _ = steps.pop())?;
        }
        answer
    }

    /// Gives back what an owner has, as far as that goes. Blocks for as long as its plugins take.
    pub(super) fn settle(&self, owner: &str) -> Result<()> {
        let Some(entry) = self.ledger.get(owner) else {
            return Ok(());
        };
        let mut entry = entry.lock();
        while let Some(step) = entry.steps.last().cloned() {
            if let Err(error) = self.give_back(&entry, step) {
                self.ledger.write(&entry)?;
                return Err(error);
            }
            entry.steps.pop();
        }
        self.ledger.forget(owner)
    }

    fn give_back(&self, entry: &Entry, step: Step) -> Result<()> {
        if let Step::Interface { netns, outside } = &step {
            if let Some(endpoint) = &entry.endpoint {
                self.take_out(netns, outside, endpoint);
            }
            return Ok(());
        }
        let what = ("give back", entry.network.as_str());
        let question = back(self.config.plugins.clone(), entry.clone(), step.clone());
        match self.ask(what, question) {
            Err(Error::Plugged { cause, .. }) if cause.is_refusal() => {
                tracing::warn!(?step, %cause, "a plugin does not take it back");
                Ok(())
            }
            other => other,
        }
    }

    /// Settles owners in turn until all are; waits at most for the first attempt, and so long.
    pub(super) fn settle_behind(self: &Arc<Self>, owners: Vec<String>, wait: Duration) {
        if owners.is_empty() {
            return;
        }
        let inner = Arc::clone(self);
        let (tried, first) = tokio::sync::oneshot::channel::<()>();
        self.runtime.spawn(async move {
            let mut tried = Some(tried);
            for owner in owners {
                let mut wait = AGAIN;
                while let Err(error) = inner.try_to_settle(&owner).await {
                    tracing::warn!(owner, %error, "asked again later");
                    tried.take();
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(AGAIN_AT_MOST);
                }
            }
        });
        if !wait.is_zero() {
            let waited = async { tokio::time::timeout(wait, first).await };
            let _done_or_later = self.runtime.block_on(waited);
        }
    }

    async fn try_to_settle(self: &Arc<Self>, owner: &str) -> Result<()> {
        let (inner, owner) = (Arc::clone(self), owner.to_owned());
        threads::run_async("berth-settle", move || inner.settle(&owner)).await
    }

    /// Settles the endpoints that a container has had, all of them or one.
    pub(super) fn settle_endpoints(
        self: &Arc<Self>,
        had: &Membership,
        only: Option<&EndpointId>,
        wait: Duration,
    ) {
        let gone = (had.endpoints.iter().rev()).filter(|e| only.is_none_or(|id| *id == e.id));
        let gone: Vec<_> = gone.collect();
        let owners = gone.iter().map(|endpoint| endpoint.id.to_string());
        let owners = owners.filter(|owner| self.ledger.get(owner).is_some());
        self.settle_behind(owners.collect(), wait);
        // Whatever a plugin is waited for: the container has left its network.
        for endpoint in gone {
            let Some(plug) = endpoint.plug.as_ref().filter(|_| !wait.is_zero()) else {
                continue;
            };
            self.take_out(&had.member.netns, &plug.source, &endpoint.id);
        }
    }

    fn take_out(&self, netns: &Path, outside: &str, endpoint: &EndpointId) {
        let host = self.standing.host_netns();
        if let Err(error) = host.and_then(|host| moved::out(host, netns, outside, endpoint)) {
            tracing::warn!(interface = outside, %error, "it stays in its container");
        }
    }

    /// Entries of a network that nobody has any more, its endpoints' first.
    pub(super) fn orphans(&self) -> Vec<(NetworkId, String)> {
        let owners = self.ledger.owners().into_iter();
        let lost = owners.filter(|(network, endpoint)| match endpoint {
            None => !self.store.has_network(network) && !self.state.lock().is_making(network),
            Some(id) => {
                let state = self.state.lock();
                let mut members = state.members.values();
                !members.any(|member| member.endpoints.iter().any(|e| e.id == *id))
            }
        });
        lost.map(|(network, endpoint)| {
            let owner = endpoint.map_or_else(|| network.to_string(), |id| id.to_string());
            (network, owner)
        })
        .collect()
    }

    /// What an earlier daemon has left: each network's in their order, networks beside each other.
    pub(super) fn settle_orphans(self: &Arc<Self>) {
        let mut by_network = std::collections::BTreeMap::<String, Vec<String>>::new();
        for (network, owner) in self.orphans() {
            let of_network = by_network.entry(network.to_string()).or_default();
            of_network.push(owner);
        }
        for owners in by_network.into_values() {
            self.settle_behind(owners, Duration::ZERO);
        }
    }
}

/// The question that undoes a step.
async fn back(plugins: Plugins, entry: Entry, step: Step) -> Asked<()> {
    let network = entry.network.as_str();
    let endpoint = (entry.endpoint.as_ref()).map_or("", EndpointId::as_str);
    let driver = NetworkDriver::open(&plugins, &entry.driver, Patience::Change);
    let ipam = IpamDriver::open(&plugins, &entry.ipam, Patience::Change);
    match step {
        Step::Pool { id: Some(id) } => ipam.await?.release_pool(&id).await,
        Step::Address {
            pool,
            address: Some(address),
        } => ipam.await?.release_address(&pool, address).await,
        Step::Pool { id: None } | Step::Address { address: None, .. } => {
            // Its answer was never heard: there is no name to give it back by.
            tracing::warn!(plugin = entry.ipam, ?step, "what it gave is not known");
            Ok(())
        }
        Step::Network => driver.await?.delete_network(network).await,
        Step::Endpoint => driver.await?.delete_endpoint(network, endpoint).await,
        Step::Join => driver.await?.leave(network, endpoint).await,
        Step::WayOut => driver.await?.revoke_external(network, endpoint).await,
        Step::Interface { .. } => Ok(()),
    }
}
