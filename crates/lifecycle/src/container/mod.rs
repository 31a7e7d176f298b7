//! One container: its state, and the task that alone changes it.
//!
//! ```text
//!   create ──▶ Created ──start──▶ Running ──exit──▶ Exited ──remove──▶ (gone)
//!                 │                  ▲  │               ▲
//!                 │             signal, then kill       │
//!                 └──start fails: StartError────────────┘
//! ```
//!
//! Everyone else reads [`Container::view`], which never waits, and sends [`Command`]s. Stopping is
//! not a state of its own but a set of deadlines in the task: further requests are served, and a
//! shorter grace overtakes a longer one.

mod control;
mod create;
mod owners;
mod start;
mod stop;
mod task;

use std::sync::Arc;
use std::time::Duration;

use berth_names::ContainerId;
use berth_shim_client::Shim;
use bytes::Bytes;
use tokio::sync::watch;

pub(crate) use create::create;
pub(crate) use stop::recorded;
pub(crate) use task::{Phase, Task};

use crate::attach::Outputs;
use crate::error::{Error, Result};
use crate::files::ContainerFiles;
use crate::mailbox::{Mailbox, Reply, Requests};
use crate::record::{ContainerRecord, ContainerState};
use crate::request::Resources;
use crate::shown::Shown;
use crate::stats::Gauge;

pub(crate) enum Command {
    Start {
        clients: Vec<Outputs>,
        reply: Reply<Arc<Shim>>,
    },
    Stop {
        grace: Duration,
        reply: Reply,
    },
    Remove(Reply),
    Update {
        resources: Box<Resources>,
        reply: Reply,
    },
    ReopenLog(Reply),
}

/// A container as others see it.
pub struct Container {
    id: ContainerId,
    pub(crate) files: ContainerFiles,
    shown: Shown<ContainerRecord>,
    /// Of a container that runs.
    shim: watch::Sender<Option<Arc<Shim>>>,
    pub(crate) gauge: Gauge,
    mailbox: Mailbox<Command>,
}

impl Container {
    fn new(record: Arc<ContainerRecord>, files: ContainerFiles) -> (Arc<Self>, Requests<Command>) {
        let (mailbox, requests) = Mailbox::new(record.id.as_str());
        let container = Self {
            id: record.id.clone(),
            files,
            shown: Shown::new(record),
            shim: watch::Sender::new(None),
            gauge: Gauge::default(),
            mailbox,
        };
        (Arc::new(container), requests)
    }

    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The container at this moment.
    pub fn view(&self) -> Arc<ContainerRecord> {
        self.shown.view()
    }

    /// What `tell` makes of it for a list, remembered until it changes.
    pub fn listed(&self, tell: impl FnOnce(&ContainerRecord) -> Bytes) -> Bytes {
        self.shown.listed(tell)
    }

    /// The shim of a container that runs.
    pub fn running(&self, action: &'static str) -> Result<Arc<Shim>> {
        let view = self.view();
        match (view.state, self.shim.borrow().clone()) {
            (ContainerState::Running, Some(shim)) => Ok(shim),
            (state, _) => Err(Error::ContainerState {
                id: self.id.clone(),
                state: state_name(state),
                expected: "running",
                action,
            }),
        }
    }

    pub(crate) fn has_shim(&self) -> bool {
        self.shim.borrow().is_some()
    }

    /// Becomes `None` when the container has ended.
    pub(crate) fn watch_shim(&self) -> watch::Receiver<Option<Arc<Shim>>> {
        self.shim.subscribe()
    }

    pub async fn start(&self) -> Result<()> {
        self.start_before(Vec::new()).await.map(drop)
    }

    /// Starts it with clients who see its output from the first byte.
    pub(crate) async fn start_before(&self, clients: Vec<Outputs>) -> Result<Arc<Shim>> {
        let command = |reply| Command::Start { clients, reply };
        self.mailbox.ask("start", command).await
    }

    /// Signals, waits for `grace`, kills, and returns when the processes are gone.
    pub async fn stop(&self, grace: Duration) -> Result<()> {
        let command = |reply| Command::Stop { grace, reply };
        match self.mailbox.ask("stop", command).await {
            // The task ends with its container: one that is removed meanwhile is stopped.
            Err(Error::TaskGone { .. }) => Ok(()),
            other => other,
        }
    }

    /// Removes the container, killing it first where it runs.
    pub async fn remove(&self) -> Result<()> {
        match self.mailbox.ask("remove", Command::Remove).await {
            // The task ends with its container: a second remover comes too late, not in vain.
            Err(Error::TaskGone { .. }) => Ok(()),
            other => other,
        }
    }

    pub async fn update(&self, resources: Resources) -> Result<()> {
        let resources = Box::new(resources);
        self.mailbox
            .ask("update", |reply| Command::Update { resources, reply })
            .await
    }

    pub async fn reopen_log(&self) -> Result<()> {
        self.mailbox
            .ask("reopen the log of", Command::ReopenLog)
            .await
    }

    fn show(&self, record: Arc<ContainerRecord>) {
        self.shown.show(record);
    }

    fn set_shim(&self, shim: Option<Arc<Shim>>) {
        self.shim.send_replace(shim);
    }
}

pub(crate) fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Creating => "being created",
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
    }
}
