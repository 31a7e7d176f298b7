//! The task that owns a container.
//!
//! ```text
//!  create ─▶ Created ──start──▶ Running ⇄ Paused
//!               ▲                 │ end
//!               │                 ▼
//!               │              Exited ──policy──▶ Restarting ──wait──▶ Running
//!               └── remove ◀──────┘
//! ```
//!
//! A run that ended is cleared away (its pod, network, cgroup) before anyone who waited for a stop
//! is answered, so that ports and addresses are free again by then. Who waits for the end itself
//! reads the record, which says so at once. While it runs, its health is checked: see [`checks`].

mod alter;
mod checkpoint;
mod checks;
mod outlet;
mod run;
mod stop;

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::record::ContainerRecord;
use berth_lifecycle::{AttachControl, Pipes, StdStreams};
use berth_names::SandboxId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::checkpoints::CheckpointDraft;
use crate::config::{Limits, RestartPolicy};
use crate::container::Container;
use crate::endpoint::EndpointSettings;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::files::Files;
use crate::house::House;
use crate::logs::forward::Forward;
use crate::mailbox::Reply;
use crate::record::Record;

use alter::still_runs;
use checks::Checks;
pub(crate) use stop::signal;

pub(crate) const SIGKILL: u32 = 9;

/// How a container is to be stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopWish {
    /// A name or a number; the container's own where there is none.
    pub signal: Option<String>,
    /// Seconds until it is killed; negative means never.
    pub seconds: Option<i64>,
}

/// Streams of a container, now or from its next start on.
pub enum Attachment {
    Now(Pipes, AttachControl),
    Later(oneshot::Receiver<(Pipes, AttachControl)>),
}

pub(crate) enum Command {
    /// From a checkpoint, if one is named.
    Start(Option<CheckpointDraft>, Reply),
    Checkpoint(CheckpointDraft, Reply),
    Stop(StopWish, Reply),
    Restart(StopWish, Reply),
    Kill(u32, Reply),
    Pause(Reply),
    Unpause(Reply),
    Attach(StdStreams, Reply<Attachment>),
    Rename(String, Reply),
    Connect(String, Box<EndpointSettings>, Reply),
    /// By force also from a network that is not there.
    Disconnect(String, bool, Reply),
    /// Others have other addresses.
    RefreshHosts,
    Update(Box<Limits>, Option<RestartPolicy>, Reply),
    Remove {
        force: bool,
        volumes: bool,
        reply: Reply,
    },
}

/// One life of the processes.
struct Run {
    pod: SandboxId,
    container: Arc<berth_lifecycle::Container>,
    finished: JoinHandle<Arc<ContainerRecord>>,
    began: Instant,
}

/// What is done when the run has ended.
#[derive(Default)]
struct After {
    stopped: Vec<Reply>,
    restarted: Vec<Reply>,
    removed: Vec<Reply>,
    remove_volumes: bool,
    kill_at: Option<Instant>,
}

pub(crate) struct Task {
    house: Arc<House>,
    container: Arc<Container>,
    record: Arc<Record>,
    files: Files,
    run: Option<Run>,
    after: After,
    waiting: Vec<(StdStreams, oneshot::Sender<(Pipes, AttachControl)>)>,
    restart_at: Option<Instant>,
    last_wait: Option<Duration>,
    checks: Checks,
    /// Of the present run.
    forward: Option<Forward>,
    /// What the next run begins with.
    checkpoint: Option<PathBuf>,
}

impl Task {
    pub fn spawn(
        house: Arc<House>,
        container: Arc<Container>,
        inbox: mpsc::Receiver<Command>,
        found: Option<Arc<berth_lifecycle::Container>>,
    ) {
        let record = container.view();
        let mut task = Self {
            files: Files::new(&house.root, record.id.as_str()),
            house,
            container,
            record,
            run: None,
            after: After::default(),
            waiting: Vec::new(),
            restart_at: None,
            last_wait: None,
            checks: Checks::default(),
            forward: None,
            checkpoint: None,
        };
        tokio::spawn(async move {
            task.take_over(found).await;
            task.serve(inbox).await;
        });
    }

    async fn serve(&mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            let removing = self.run.is_none() && !self.after.removed.is_empty();
            if removing && Box::pin(self.remove()).await {
                return;
            }
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => Box::pin(self.obey(command)).await,
                    None => return,
                },
                view = finished(&mut self.run) => Box::pin(self.ended(&view)).await,
                () = due(self.after.kill_at) => Box::pin(self.overdue()).await,
                () = due(self.restart_at) => Box::pin(self.again()).await,
                () = due(self.checks.due()) => self.make_check(),
                checked = checks::checked(&mut self.checks) => self.note_check(checked),
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Checkpoint(draft, reply) => self.checkpoint(&draft, reply).await,
            Command::Start(checkpoint, reply) => {
                let outcome = match self.record.phase.runs() {
                    true => Err(Error::NotModified(self.record.id.clone())),
                    false => {
                        let record = self.change();
                        (record.restarts, record.stopped_by_hand) = (0, false);
                        self.start_from(checkpoint).await
                    }
                };
                let _ = reply.send(outcome);
            }
            Command::Stop(wish, reply) => self.stop(&wish, reply).await,
            Command::Restart(wish, reply) => self.restart(&wish, reply).await,
            Command::Kill(signal, reply) => {
                let outcome = self.kill(signal).await;
                let _ = reply.send(outcome);
            }
            Command::Pause(reply) => {
                let outcome = self.pause().await;
                let _ = reply.send(outcome);
            }
            Command::Unpause(reply) => {
                let outcome = self.unpause().await;
                let _ = reply.send(outcome);
            }
            Command::Attach(streams, reply) => {
                let outcome = self.attach(streams).await;
                let _ = reply.send(outcome);
            }
            Command::Rename(name, reply) => {
                let old = std::mem::replace(&mut self.change().name, name);
                let outcome = self.house.commit(&self.record).await;
                let (id, name) = (&self.record.id, &self.record.name);
                if let Err(error) = self.house.networks.rename(id, name).await {
                    tracing::warn!(%id, %error, "the container is not found by its new name");
                }
                self.show();
                let event = Event::of(&self.record, "rename").with("oldName", format!("/{old}"));
                self.house.tell(event);
                let _ = reply.send(outcome);
            }
            Command::Connect(network, settings, reply) => {
                let house = Arc::clone(&self.house);
                let outcome = house.connect_more(self.change(), &network, *settings).await;
                if outcome.is_ok() {
                    self.resolve_anew().await;
                }
                let outcome = self.keep(outcome).await;
                self.refresh_hosts().await;
                let _ = reply.send(outcome);
            }
            Command::Disconnect(network, force, reply) => {
                let house = Arc::clone(&self.house);
                let outcome = house.disconnect(self.change(), &network, force).await;
                let outcome = self.keep(outcome).await;
                self.refresh_hosts().await;
                let _ = reply.send(outcome);
            }
            Command::RefreshHosts => self.refresh_hosts().await,
            Command::Update(limits, policy, reply) => {
                let outcome = self.update(*limits, policy).await;
                let _ = reply.send(outcome);
            }
            Command::Remove {
                force,
                volumes,
                reply,
            } => {
                if self.record.phase.runs() && !force {
                    let _ = reply.send(Err(still_runs(&self.record)));
                    return;
                }
                self.after.removed.push(reply);
                self.after.remove_volumes |= volumes;
                self.restart_at = None;
                if let Some(run) = &self.run {
                    let container = Arc::clone(&run.container);
                    self.house
                        .tell(Event::of(&self.record, "kill").with("signal", SIGKILL));
                    self.end_now(&container).await;
                }
            }
        }
    }

    /// Writes down what succeeded.
    async fn keep(&mut self, outcome: Result<()>) -> Result<()> {
        outcome?;
        self.show();
        self.house.commit(&self.record).await
    }

    fn change(&mut self) -> &mut Record {
        Arc::make_mut(&mut self.record)
    }

    fn show(&self) {
        self.container.show(Arc::clone(&self.record));
    }

    /// Shows the record and writes it down behind: what runs tells itself after a crash.
    fn persist(&self) {
        self.show();
        self.house.write(&self.record);
    }
}

impl After {
    fn is_empty(&self) -> bool {
        self.stopped.is_empty() && self.restarted.is_empty() && self.removed.is_empty()
    }
}

async fn finished(run: &mut Option<Run>) -> Arc<ContainerRecord> {
    match run {
        Some(run) => match (&mut run.finished).await {
            Ok(view) => view,
            // The runtime is going down, and this task with it.
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
