//! The task that owns a container's transitions.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use berth_shim_client::Shim;

use super::{Command, Container, start, state_name, stop};
use crate::attach::Outputs;
use crate::core::Core;
use crate::error::{Error, Result, chain};
use crate::events::EventKind;
use crate::files::ContainerFiles;
use crate::mailbox::{Reply, Requests};
use crate::private;
use crate::record::{self, ContainerRecord, ContainerState, Exit};
use crate::request::Resources;
use crate::restore;
use crate::shim;
use crate::undo::blocking;
use crate::volumes;

/// How long processes may outlive SIGKILL before a stop is answered with an error.
const AFTER_KILL: Duration = Duration::from_secs(10);
/// More than any process is waited for, and little enough to be added to a time.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);
const SIGKILL: u32 = 9;

pub(crate) enum Phase {
    Created,
    Running(Arc<Shim>),
    Exited,
}

pub(crate) struct Task {
    core: Arc<Core>,
    container: Arc<Container>,
    /// The same that others see, until it changes.
    record: Arc<ContainerRecord>,
    shim: Option<Arc<Shim>>,
    exit: Option<BoxFuture<'static, Exit>>,
    stopping: Stopping,
}

/// Who waits for the end, and what happens when.
#[derive(Default)]
struct Stopping {
    waiting: Vec<Reply>,
    removing: Vec<Reply>,
    kill_at: Option<Instant>,
    give_up_at: Option<Instant>,
}

enum Deadline {
    Kill,
    GiveUp,
}

impl Task {
    /// Starts the task of a container that is created, runs or has ended, and makes it findable.
    pub(crate) fn spawn(
        core: Arc<Core>,
        record: ContainerRecord,
        files: ContainerFiles,
        phase: Phase,
    ) -> Arc<Container> {
        let record = Arc::new(record);
        let (container, inbox) = Container::new(Arc::clone(&record), files);
        let mut task = Self {
            core: Arc::clone(&core),
            container: Arc::clone(&container),
            record,
            shim: None,
            exit: None,
            stopping: Stopping::default(),
        };
        if let Phase::Running(shim) = phase {
            task.watch(shim);
        }
        core.show_container(&container);
        tokio::spawn(task.run(inbox));
        container
    }

    async fn run(mut self, mut inbox: Requests<Command>) {
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    // On the heap: most containers do nothing, and there may be thousands.
                    Some((span, command)) => Box::pin(self.obey(command)).instrument(span).await,
                    None => return,
                },
                exit = ended(&mut self.exit) => Box::pin(self.ended(exit)).await,
                deadline = self.stopping.next_deadline() => Box::pin(self.overdue(deadline)).await,
            }
            let removing = self.shim.is_none() && !self.stopping.removing.is_empty();
            if removing && Box::pin(self.remove()).await {
                return;
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Start { clients, reply } => {
                let outcome = self.start(&clients).await;
                let runs = outcome.is_ok();
                let _ = reply.send(outcome);
                // Behind the answer: until this is done, its shim tells what it says.
                if runs {
                    berth_faults::passing("container.start.before-record");
                    self.write_down().await;
                }
            }
            Command::Stop { grace, reply } => self.stop(grace, reply).await,
            Command::Remove(reply) => {
                self.stopping.removing.push(reply);
                if self.shim.is_some() {
                    self.kill().await;
                }
            }
            Command::Update { resources, reply } => {
                let outcome = self.update(&resources).await;
                let _ = reply.send(outcome);
            }
            Command::ReopenLog(reply) => {
                let outcome = self.reopen_log().await;
                let _ = reply.send(outcome);
            }
        }
    }

    async fn start(&mut self, clients: &[Outputs]) -> Result<Arc<Shim>> {
        self.expect(ContainerState::Created, "start")?;
        self.core
            .pod(self.record.pod.as_str())?
            .ready("start a container")?;
        match start::start(&self.core, &self.record, &self.container.files, clients).await {
            Ok(started) => {
                let record = Arc::make_mut(&mut self.record);
                record.state = ContainerState::Running;
                record.pid = Some(started.pid);
                record.started_at = record::now();
                self.watch(Arc::clone(&started.shim));
                self.container.show(Arc::clone(&self.record));
                self.core.tell_container(EventKind::Started, &self.record);
                berth_faults::passing("container.start.before-answer");
                Ok(started.shim)
            }
            Err(error) => {
                let exit = Exit::start_failed(error.exit_code(), chain(&error));
                let record = Arc::make_mut(&mut self.record);
                record.exit = Some(exit);
                record.state = ContainerState::Exited;
                record.started_at = record::now();
                self.persist().await;
                self.core.tell_container(EventKind::Stopped, &self.record);
                Err(error)
            }
        }
    }

    fn watch(&mut self, shim: Arc<Shim>) {
        let exit = stop::exit_of(
            Arc::clone(&self.core),
            Arc::clone(&self.record),
            Arc::clone(&shim),
        );
        // Its own task: the wait is sent to the shim at once, not when this task next idles.
        let exit = tokio::spawn(exit);
        self.exit = Some(
            exit.map(|joined| joined.unwrap_or_else(|_| Exit::unknown("the waiter failed")))
                .boxed(),
        );
        self.container.set_shim(Some(Arc::clone(&shim)));
        self.shim = Some(shim);
    }

    async fn stop(&mut self, grace: Duration, reply: Reply) {
        let Some(shim) = self.shim.clone() else {
            let _ = reply.send(Ok(()));
            return;
        };
        self.stopping.waiting.push(reply);
        if grace.is_zero() {
            return self.kill().await;
        }
        let kill_at = Instant::now() + grace.min(LONGEST_GRACE);
        self.stopping.kill_at = Some(
            self.stopping
                .kill_at
                .map_or(kill_at, |present| present.min(kill_at)),
        );
        let number = crate::signal::parse(&self.record.stop_signal)
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or(15);
        if let Err(error) = shim::signal(&shim, number).await {
            tracing::warn!(id = %self.record.id, error = chain(&error), "stop signal not sent");
        }
        berth_faults::passing("container.stop.after-signal");
    }

    async fn kill(&mut self) {
        self.stopping.kill_at = None;
        self.stopping.give_up_at = Some(Instant::now() + AFTER_KILL);
        let Some(shim) = &self.shim else { return };
        if let Err(error) = shim::signal(shim, SIGKILL).await {
            tracing::warn!(id = %self.record.id, error = chain(&error), "kill by cgroup instead");
            shim::kill_cgroup(&self.core, &self.record.cgroup).await;
        }
        berth_faults::passing("container.kill.after-signal");
    }

    async fn overdue(&mut self, deadline: Deadline) {
        match deadline {
            Deadline::Kill => self.kill().await,
            Deadline::GiveUp => {
                self.stopping.give_up_at = None;
                let waiting = std::mem::take(&mut self.stopping.waiting);
                for reply in waiting.into_iter().chain(self.stopping.removing.drain(..)) {
                    let id = self.record.id.clone();
                    let _ = reply.send(Err(Error::WillNotStop {
                        id,
                        waited: AFTER_KILL,
                    }));
                }
            }
        }
    }

    /// The process is gone: the record says so before anything is released, and what the shim held
    /// is released before anyone who waits is told.
    async fn ended(&mut self, exit: Exit) {
        self.exit = None;
        berth_faults::passing("container.exit.before-record");
        let record = Arc::make_mut(&mut self.record);
        record.state = ContainerState::Exited;
        record.exit = Some(exit);
        record.pid = None;
        // Who waits for the shim to be gone finds how it ended.
        self.container.show(Arc::clone(&self.record));
        self.container.set_shim(None);
        self.persist().await;
        berth_faults::passing("container.exit.after-record");
        self.core.tell_container(EventKind::Stopped, &self.record);
        if let Some(shim) = self.shim.take() {
            let cgroup = self.record.cgroup.clone();
            let _ = shim::dispose(Arc::clone(&self.core), shim, cgroup).await;
        }
        berth_faults::passing("container.exit.before-answer");
        let stopping = &mut self.stopping;
        (stopping.kill_at, stopping.give_up_at) = (None, None);
        for reply in stopping.waiting.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    async fn update(&mut self, update: &Resources) -> Result<()> {
        self.core.check_resources(update)?;
        let mut resources = self.record.request.resources.clone();
        resources.merge(update);
        match (&self.shim, self.record.state) {
            (Some(shim), ContainerState::Running) => {
                let linux = crate::spec::linux_resources(&resources.changed_by(update))?;
                shim.update(&linux)
                    .await
                    .map_err(Error::of_shim("update", shim.id()))?;
                berth_faults::passing("container.update.after-shim");
            }
            (_, ContainerState::Created) => {
                let path = self.container.files.spec();
                let linux = crate::spec::linux_resources(&resources)?;
                blocking("update", move || rewrite_resources(&path, linux)).await?;
            }
            (_, state) => {
                return Err(Error::ContainerState {
                    id: self.record.id.clone(),
                    state: state_name(state),
                    expected: "created or running",
                    action: "update",
                });
            }
        }
        Arc::make_mut(&mut self.record).request.resources = resources;
        self.persist().await;
        Ok(())
    }

    async fn reopen_log(&mut self) -> Result<()> {
        let shim = self.container.running("reopen its log")?;
        let reopened = shim.reopen_log().await;
        berth_faults::passing("container.log.after-reopen");
        reopened.map_err(Error::of_shim("reopen the log of", shim.id()))
    }

    /// Releases everything; true when the container is gone and the task may end.
    async fn remove(&mut self) -> bool {
        let outcome = self.release().await;
        let gone = outcome.is_ok();
        let shared = outcome.map_err(Arc::new);
        for reply in self.stopping.removing.drain(..) {
            let _ = reply.send(shared.clone().map_err(Error::Shared));
        }
        gone
    }

    async fn release(&mut self) -> Result<()> {
        let id = self.record.id.to_string();
        volumes::release(&self.core, &self.container.files, &self.record.volumes).await?;
        berth_faults::at("container.remove.after-volumes")?;
        self.core.remove_own_layer(&self.record).await?;
        berth_faults::at("container.remove.after-snapshot")?;
        restore::forget(&self.core, &id).await?;
        let files = self.container.files.clone();
        blocking("remove", move || files.remove()).await?;
        berth_faults::at("container.remove.after-files")?;
        self.core.forget_container(&self.record);
        for image in self.record.images() {
            self.core.images.let_go(&image);
        }
        berth_faults::passing("container.remove.before-answer");
        Ok(())
    }

    fn expect(&self, state: ContainerState, action: &'static str) -> Result<()> {
        if self.record.state == state {
            return Ok(());
        }
        Err(Error::ContainerState {
            id: self.record.id.clone(),
            state: state_name(self.record.state),
            expected: state_name(state),
            action,
        })
    }

    /// Shows the record and writes it down.
    async fn persist(&mut self) {
        self.container.show(Arc::clone(&self.record));
        self.write_down().await;
    }

    /// The runtime directory is memory: a failure there means that the host has none left, and the
    /// container's truth is still its shim.
    async fn write_down(&mut self) {
        self.core.store_container(&self.record);
        let (path, record) = (self.container.files.record(), Arc::clone(&self.record));
        let written = blocking("write the record of", move || {
            record::write(&path, &*record)
        })
        .await;
        if let Err(error) = written {
            tracing::error!(id = %self.record.id, error = chain(&error), "record not written");
        }
    }
}

impl Stopping {
    async fn next_deadline(&self) -> Deadline {
        match (self.kill_at, self.give_up_at) {
            (Some(at), _) => {
                sleep_until(at).await;
                Deadline::Kill
            }
            (None, Some(at)) => {
                sleep_until(at).await;
                Deadline::GiveUp
            }
            (None, None) => pending().await,
        }
    }
}

async fn ended(exit: &mut Option<BoxFuture<'static, Exit>>) -> Exit {
    match exit {
        Some(exit) => exit.await,
        None => pending().await,
    }
}

fn rewrite_resources(
    path: &std::path::Path,
    resources: oci_spec::runtime::LinuxResources,
) -> Result<()> {
    let failed = |source| Error::State {
        action: "update",
        path: path.to_owned(),
        source,
    };
    let mut spec = oci_spec::runtime::Spec::load(path)?;
    if let Some(linux) = spec.linux_mut() {
        let devices = linux
            .resources()
            .as_ref()
            .and_then(|present| present.devices().clone());
        let mut resources = resources;
        resources.set_devices(devices);
        linux.set_resources(Some(resources));
    }
    let bytes = serde_json::to_vec(&spec).map_err(|error| failed(error.into()))?;
    private::write(path, &bytes).map_err(failed)
}
