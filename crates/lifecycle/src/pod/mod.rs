//! One pod sandbox: its state, and the task that alone changes it.
//!
//! ```text
//!   run ──▶ Ready ──stop, or its init ends──▶ NotReady ──remove──▶ (gone)
//! ```
//!
//! There is no pause process: the namespaces are pinned by bind mounts. A pod that shares its PID
//! namespace has an init of ours, run like any container, whose end makes the pod not ready.

mod bandwidth;
mod cgroup;
mod init;
mod run;
mod task;
mod user_namespace;

use std::sync::Arc;

use berth_names::SandboxId;
use bytes::Bytes;

pub(crate) use init::{Init, cgroup as init_cgroup};
pub(crate) use run::{run, undo_half_made, unpin};
pub(crate) use task::Task;
pub(crate) use user_namespace::give_to_root;
pub use user_namespace::supported_at as user_namespaces_supported_at;

use crate::error::{Error, Result};
use crate::mailbox::{Mailbox, Reply, Requests};
use crate::record::{PodRecord, PodState};
use crate::request::{Dns, Resources};
use crate::shown::Shown;
use crate::stats::Gauge;

pub(crate) enum Command {
    Stop(Reply),
    Remove(Reply),
    Update {
        overhead: Option<Box<Resources>>,
        resources: Option<Box<Resources>>,
        reply: Reply,
    },
    Resolve(Dns, Reply),
}

/// A pod as others see it.
pub struct Pod {
    id: SandboxId,
    shown: Shown<PodRecord>,
    pub(crate) gauge: Gauge,
    mailbox: Mailbox<Command>,
}

impl Pod {
    fn new(record: Arc<PodRecord>) -> (Arc<Self>, Requests<Command>) {
        let (mailbox, requests) = Mailbox::new(record.id.as_str());
        let pod = Self {
            id: record.id.clone(),
            shown: Shown::new(record),
            gauge: Gauge::default(),
            mailbox,
        };
        (Arc::new(pod), requests)
    }

    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// The pod at this moment.
    pub fn view(&self) -> Arc<PodRecord> {
        self.shown.view()
    }

    /// What `tell` makes of it for a list, remembered until it changes.
    pub fn listed(&self, tell: impl FnOnce(&PodRecord) -> Bytes) -> Bytes {
        self.shown.listed(tell)
    }

    /// The pod, if it is ready for `action`.
    pub fn ready(&self, action: &'static str) -> Result<Arc<PodRecord>> {
        let view = self.view();
        match view.state {
            PodState::Ready => Ok(view),
            PodState::Creating | PodState::NotReady => Err(Error::PodState {
                id: self.id.clone(),
                state: "not ready",
                action,
            }),
        }
    }

    /// Kills the pod's containers and releases its network and namespaces.
    pub async fn stop(&self) -> Result<()> {
        match self.mailbox.ask("stop", Command::Stop).await {
            // The task ends with its pod: one that is removed meanwhile is stopped.
            Err(Error::TaskGone { .. }) => Ok(()),
            other => other,
        }
    }

    /// Stops the pod where that is still to be done, and removes it with its containers.
    pub async fn remove(&self) -> Result<()> {
        match self.mailbox.ask("remove", Command::Remove).await {
            Err(Error::TaskGone { .. }) => Ok(()),
            other => other,
        }
    }

    /// Changes what the pod may use; a part that is not given stays.
    pub async fn update(
        &self,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<()> {
        let (overhead, resources) = (overhead.map(Box::new), resources.map(Box::new));
        let command = |reply| Command::Update {
            overhead,
            resources,
            reply,
        };
        self.mailbox.ask("update", command).await
    }

    /// Has names asked of other resolvers from now on. A `resolv.conf` that somebody in the pod
    /// changed stays as it is.
    pub async fn resolve(&self, dns: Dns) -> Result<()> {
        let command = |reply| Command::Resolve(dns, reply);
        self.mailbox.ask("have resolve names", command).await
    }

    fn show(&self, record: Arc<PodRecord>) {
        self.shown.show(record);
    }
}
