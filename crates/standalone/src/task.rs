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
//! reads the record, which says so at once.

use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::record::{ContainerRecord, now};
use berth_lifecycle::{AttachControl, Pipes, StdStreams, chain};
use berth_names::SandboxId;
use berth_network::PortRequest;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::{Limits, RestartPolicy};
use crate::containers::{Container, House};
use crate::endpoint::EndpointSettings;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::files::{Files, blocking};
use crate::mailbox::Reply;
use crate::record::{Phase, Record};
use crate::request::{self, Network};
use crate::{limits, policy, ports};

const SIGKILL: u32 = 9;
/// Where neither the request nor the container says how long its processes may take to stop.
const GRACE: Duration = Duration::from_secs(10);
/// More than any process is waited for, and little enough to be added to a time.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

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
    Start(Reply),
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
        };
        tokio::spawn(async move {
            task.take_over(found).await;
            task.serve(inbox).await;
        });
    }

    /// What a former daemon left: a run that goes on, one whose end nobody wrote down, or none.
    async fn take_over(&mut self, found: Option<Arc<berth_lifecycle::Container>>) {
        use berth_lifecycle::record::ContainerState;
        let Some(found) = found else {
            let house = Arc::clone(&self.house);
            house.leave(self.change()).await;
            if self.record.phase.runs() {
                let record = self.change();
                record.exit_code = 255;
                record.finished_at = now();
                record.ends += 1;
            }
            if !matches!(self.record.phase, Phase::Created | Phase::Exited) {
                self.change().phase = Phase::Exited;
                self.persist();
            }
            if self.record.phase == Phase::Exited && policy::at_start(&self.record) {
                self.restart_at = Some(Instant::now());
                self.change().phase = Phase::Restarting;
            }
            return;
        };
        let view = found.view();
        match view.state {
            ContainerState::Running | ContainerState::Exited
                if self.record.phase != Phase::Created =>
            {
                self.adopt(view.pod.clone(), found);
            }
            ContainerState::Running => {
                self.change().phase = Phase::Running;
                self.adopt(view.pod.clone(), found);
            }
            _ => {
                // Its start was cut short.
                self.clear(&view.pod.clone()).await;
                if self.record.phase.runs() {
                    self.change().phase = Phase::Exited;
                }
            }
        }
        self.persist();
    }

    fn adopt(&mut self, pod: SandboxId, container: Arc<berth_lifecycle::Container>) {
        let watched = Arc::clone(&container);
        let finished = tokio::spawn(async move { watched.finished().await });
        self.container.set_run(Some(Arc::clone(&container)));
        self.run = Some(Run {
            pod,
            container,
            finished,
            began: Instant::now(),
        });
    }

    async fn serve(&mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => Box::pin(self.obey(command)).await,
                    None => return,
                },
                view = finished(&mut self.run) => Box::pin(self.ended(&view)).await,
                () = due(self.after.kill_at) => Box::pin(self.overdue()).await,
                () = due(self.restart_at) => Box::pin(self.again()).await,
            }
            let removing = self.run.is_none() && !self.after.removed.is_empty();
            if removing && Box::pin(self.remove()).await {
                return;
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Start(reply) => {
                let outcome = match self.record.phase.runs() {
                    true => Err(Error::NotModified(self.record.id.clone())),
                    false => {
                        let record = self.change();
                        (record.restarts, record.stopped_by_hand) = (0, false);
                        self.start().await
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
                let _ = reply.send(self.keep(outcome).await);
            }
            Command::Disconnect(network, force, reply) => {
                let house = Arc::clone(&self.house);
                let outcome = house.disconnect(self.change(), &network, force).await;
                let _ = reply.send(self.keep(outcome).await);
            }
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

    async fn start(&mut self) -> Result<()> {
        self.restart_at = None;
        if matches!(self.record.phase, Phase::Removing | Phase::Dead) {
            let id = &self.record.id;
            return Err(Error::Conflict(format!(
                "container {id} is marked for removal and cannot be started"
            )));
        }
        match self.run_once().await {
            Ok(view) => {
                let record = self.change();
                record.phase = Phase::Running;
                record.pid = view.pid.unwrap_or(0);
                record.started_at = view.started_at;
                record.finished_at = 0;
                (record.exit_code, record.oom_killed) = (0, false);
                record.error.clear();
                self.persist();
                self.house.tell(Event::of(&self.record, "start"));
                Ok(())
            }
            Err(error) => {
                self.container.set_run(None);
                self.waiting.clear();
                let text = error.to_string();
                let code = exit_code(&error);
                let record = self.change();
                if record.phase == Phase::Restarting {
                    record.phase = Phase::Exited;
                }
                (record.error, record.exit_code) = (text, code);
                self.persist();
                self.remove_if_wanted();
                Err(error)
            }
        }
    }

    /// Makes the pod and the container of a run and starts it. What a failure leaves is cleared.
    async fn run_once(&mut self) -> Result<Arc<ContainerRecord>> {
        let house = Arc::clone(&self.house);
        let image = self.record.image_id.to_string();
        let image = house
            .images
            .get(&image)
            .ok_or(Error::ImageNotFound(image))?;
        let exposed = image.config.exposed_ports().map(str::to_owned);
        let ports = ports::wanted(&self.record.config, &self.record.host, exposed)?;
        let mut pod_request = request::pod(&self.record, &self.files)?;
        pod_request.dns = house.resolver(&self.record);
        let container_request = request::container(&self.record, &image, &self.files)?;
        let pod = house.runtime.run_pod(pod_request).await?;
        match self.run_in(&pod, ports, container_request).await {
            Ok(view) => Ok(view),
            Err(error) => {
                self.clear(&pod).await;
                Err(error)
            }
        }
    }

    async fn run_in(
        &mut self,
        pod: &SandboxId,
        ports: Vec<PortRequest>,
        wanted: berth_lifecycle::request::ContainerRequest,
    ) -> Result<Arc<ContainerRecord>> {
        let runtime = self.house.runtime.clone();
        let house = Arc::clone(&self.house);
        let netns = runtime.netns(pod);
        house.join(self.change(), netns, ports).await?;
        let addresses = self.record.addresses.clone();
        self.write_hosts(&addresses).await?;
        let id = runtime.create_container(pod.as_str(), wanted).await?;
        let container = runtime.container(id.as_str())?;
        let waiting = std::mem::take(&mut self.waiting);
        let streams: Vec<StdStreams> = waiting.iter().map(|(streams, _)| *streams).collect();
        let joined = container.start_attached(&streams).await?;
        for ((_, client), streams) in waiting.into_iter().zip(joined) {
            // A client that left meanwhile lets go of its streams by that.
            let _ = client.send(streams);
        }
        let view = container.view();
        self.adopt(pod.clone(), container);
        Ok(view)
    }

    async fn write_hosts(&self, addresses: &[IpAddr]) -> Result<()> {
        let (files, network) = (self.files.clone(), request::network(&self.record.host)?);
        let added = self.record.host.extra_hosts.iter();
        let added: Vec<(String, String)> = added
            .filter_map(|entry| entry.split_once(':').or_else(|| entry.split_once('=')))
            .map(|(name, address)| (name.to_owned(), address.to_owned()))
            .collect();
        let mut names = request::hostname(&self.record);
        if !self.record.config.domainname.is_empty() {
            let domain = &self.record.config.domainname;
            names = format!("{names}.{domain} {names}");
        }
        let own = addresses.iter().map(|address| (*address, names.clone()));
        let own: Vec<(IpAddr, String)> = own.collect();
        blocking(move || match network {
            Network::Host => files.copy_hosts(&added),
            Network::Joined(_) | Network::None => files.write_hosts(&own, &added),
        })
        .await
    }

    /// The end of a run.
    async fn ended(&mut self, view: &ContainerRecord) {
        let Some(run) = self.run.take() else { return };
        self.container.set_run(None);
        self.after.kill_at = None;
        let exit = view.exit.as_ref();
        let record = self.change();
        record.exit_code = exit.map_or(255, |exit| exit.code);
        record.oom_killed = exit.is_some_and(|exit| exit.reason == "OOMKilled");
        record.finished_at = exit.map_or_else(now, |exit| exit.finished_at);
        record.ends += 1;
        record.pid = 0;
        record.phase = Phase::Exited;
        let wait = match self.after.is_empty() {
            true => policy::after(&self.record, self.last_wait, run.began.elapsed()),
            false => None,
        };
        if let Some(wait) = wait {
            self.last_wait = Some(wait);
            self.restart_at = Some(Instant::now() + wait);
            let record = self.change();
            record.phase = Phase::Restarting;
            record.restarts += 1;
        }
        self.persist();
        if self.record.oom_killed {
            self.house.tell(Event::of(&self.record, "oom"));
        }
        let code = self.record.exit_code;
        self.house
            .tell(Event::of(&self.record, "die").with("exitCode", code));
        self.clear(&run.pod).await;
        self.persist();
        self.answer_stops().await;
    }

    async fn answer_stops(&mut self) {
        let stopped = std::mem::take(&mut self.after.stopped);
        let restarted = std::mem::take(&mut self.after.restarted);
        if !stopped.is_empty() || !restarted.is_empty() {
            self.house.tell(Event::of(&self.record, "stop"));
        }
        for reply in stopped {
            let _ = reply.send(Ok(()));
        }
        if !restarted.is_empty() {
            let outcome = self.start().await;
            let told = outcome.as_ref().err().map(ToString::to_string);
            if told.is_none() {
                self.house.tell(Event::of(&self.record, "restart"));
            }
            for reply in restarted {
                let outcome = told
                    .clone()
                    .map_or(Ok(()), |text| Err(Error::Conflict(text)));
                let _ = reply.send(outcome);
            }
        }
        if self.record.phase == Phase::Exited {
            self.remove_if_wanted();
        }
    }

    /// A container that is to go with its run goes as well when that could not begin.
    fn remove_if_wanted(&mut self) {
        let ends_with_run = self.record.host.auto_remove && self.run.is_none();
        if ends_with_run && self.after.removed.is_empty() {
            let (reply, _nobody) = oneshot::channel();
            self.after.removed.push(reply);
            self.after.remove_volumes = true;
        }
    }

    async fn stop(&mut self, wish: &StopWish, reply: Reply) {
        if self.record.phase == Phase::Restarting && self.run.is_none() {
            self.restart_at = None;
            let record = self.change();
            (record.phase, record.stopped_by_hand) = (Phase::Exited, true);
            self.persist();
            let _ = reply.send(Ok(()));
            return;
        }
        if self.run.is_none() {
            let _ = reply.send(Err(Error::NotModified(self.record.id.clone())));
            return;
        }
        self.change().stopped_by_hand = true;
        match self.begin_stop(wish).await {
            Ok(()) => self.after.stopped.push(reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    async fn restart(&mut self, wish: &StopWish, reply: Reply) {
        self.restart_at = None;
        if self.run.is_none() {
            let outcome = self.start().await;
            if outcome.is_ok() {
                self.house.tell(Event::of(&self.record, "restart"));
            }
            let _ = reply.send(outcome);
            return;
        }
        match self.begin_stop(wish).await {
            Ok(()) => self.after.restarted.push(reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    async fn begin_stop(&mut self, wish: &StopWish) -> Result<()> {
        let Some(run) = &self.run else { return Ok(()) };
        let container = Arc::clone(&run.container);
        let signal = match &wish.signal {
            Some(name) => signal(name)?,
            None => signal(&container.view().stop_signal)?,
        };
        let seconds = wish.seconds.or(self.record.config.stop_timeout);
        let grace = match seconds {
            None => GRACE,
            Some(seconds) => u64::try_from(seconds).map_or(LONGEST_GRACE, Duration::from_secs),
        };
        self.house
            .tell(Event::of(&self.record, "kill").with("signal", signal));
        if grace.is_zero() || signal == SIGKILL {
            self.end_now(&container).await;
            return Ok(());
        }
        let kill_at = Instant::now() + grace.min(LONGEST_GRACE);
        self.after.kill_at = Some(self.after.kill_at.map_or(kill_at, |at| at.min(kill_at)));
        if self.record.phase == Phase::Paused {
            // Nothing that is frozen sees a signal.
            self.thaw(&container).await;
        }
        if let Err(error) = container.signal(signal).await {
            tracing::warn!(id = %self.record.id, error = chain(&error), "stop signal not sent");
        }
        Ok(())
    }

    async fn overdue(&mut self) {
        self.after.kill_at = None;
        if let Some(run) = &self.run {
            let container = Arc::clone(&run.container);
            self.house
                .tell(Event::of(&self.record, "kill").with("signal", SIGKILL));
            self.end_now(&container).await;
        }
    }

    /// Kills what runs; the end is seen as any other.
    async fn end_now(&mut self, container: &Arc<berth_lifecycle::Container>) {
        if self.record.phase == Phase::Paused {
            self.thaw(container).await;
        }
        let container = Arc::clone(container);
        tokio::spawn(async move {
            if let Err(error) = container.stop(Duration::ZERO).await {
                tracing::warn!(id = %container.id(), error = chain(&error), "not killed");
            }
        });
    }

    async fn thaw(&mut self, container: &berth_lifecycle::Container) {
        match container.resume().await {
            Ok(()) => self.change().phase = Phase::Running,
            Err(error) => {
                tracing::warn!(id = %self.record.id, error = chain(&error), "not thawed");
            }
        }
    }

    async fn kill(&mut self, signal: u32) -> Result<()> {
        let Some(run) = &self.run else {
            let id = &self.record.id;
            return Err(Error::Conflict(format!(
                "cannot kill container: {id}: container {id} is not running"
            )));
        };
        let container = Arc::clone(&run.container);
        if signal == SIGKILL {
            self.change().stopped_by_hand = true;
            if self.record.phase == Phase::Paused {
                self.thaw(&container).await;
            }
        }
        container.signal(signal).await?;
        self.house
            .tell(Event::of(&self.record, "kill").with("signal", signal));
        Ok(())
    }

    async fn pause(&mut self) -> Result<()> {
        let id = &self.record.id;
        let Some(run) = &self.run else {
            return Err(Error::Conflict(format!("container {id} is not running")));
        };
        if self.record.phase == Phase::Paused {
            return Err(Error::Conflict(format!("container {id} is already paused")));
        }
        run.container.pause().await?;
        self.change().phase = Phase::Paused;
        self.persist();
        self.house.tell(Event::of(&self.record, "pause"));
        Ok(())
    }

    async fn unpause(&mut self) -> Result<()> {
        let id = &self.record.id;
        match &self.run {
            Some(run) if self.record.phase == Phase::Paused => run.container.resume().await?,
            _ => return Err(Error::Conflict(format!("container {id} is not paused"))),
        }
        self.change().phase = Phase::Running;
        self.persist();
        self.house.tell(Event::of(&self.record, "unpause"));
        Ok(())
    }

    async fn attach(&mut self, streams: StdStreams) -> Result<Attachment> {
        if self.record.phase == Phase::Paused {
            let id = &self.record.id;
            return Err(Error::Conflict(format!(
                "container {id} is paused, unpause the container before attach"
            )));
        }
        self.house.tell(Event::of(&self.record, "attach"));
        let Some(run) = &self.run else {
            let (client, streams_later) = oneshot::channel();
            self.waiting.retain(|(_, client)| !client.is_closed());
            self.waiting.push((streams, client));
            return Ok(Attachment::Later(streams_later));
        };
        let (pipes, control) = run.container.attach(streams).await?;
        Ok(Attachment::Now(pipes, control))
    }

    async fn update(&mut self, limits: Limits, policy: Option<RestartPolicy>) -> Result<()> {
        let mut host = self.record.host.clone();
        merge(&mut host.limits, limits);
        if let Some(policy) = policy.filter(|policy| !policy.name.is_empty()) {
            policy::check(&policy, host.auto_remove)?;
            host.restart_policy = policy;
        }
        let resources = limits::resources(&host)?;
        if let Some(run) = &self.run {
            run.container.update(resources).await?;
        }
        self.change().host = host;
        self.house.commit(&self.record).await?;
        self.show();
        self.house.tell(Event::of(&self.record, "update"));
        Ok(())
    }

    /// A restart by the policy.
    async fn again(&mut self) {
        self.restart_at = None;
        if let Err(error) = self.start().await {
            tracing::warn!(id = %self.record.id, error = chain(&error), "not started again");
            let wait = policy::after(&self.record, self.last_wait, Duration::ZERO);
            if let Some(wait) = wait {
                self.last_wait = Some(wait);
                self.restart_at = Some(Instant::now() + wait);
                let record = self.change();
                record.phase = Phase::Restarting;
                record.restarts += 1;
                self.persist();
            }
        }
    }

    /// Removes a pod with what is in it.
    async fn clear(&mut self, pod: &SandboxId) {
        let house = Arc::clone(&self.house);
        house.leave(self.change()).await;
        if let Err(error) = self.house.runtime.remove_pod(pod.as_str()).await {
            tracing::warn!(id = %self.record.id, error = chain(&error), "its run is not cleared");
        }
    }

    /// True when the container is gone and the task may end.
    async fn remove(&mut self) -> bool {
        self.change().phase = Phase::Removing;
        self.show();
        let outcome = self.release().await;
        let gone = outcome.is_ok();
        if !gone {
            self.change().phase = Phase::Dead;
            self.persist();
        } else {
            self.house.tell(Event::of(&self.record, "destroy"));
            self.house.forget(&self.record);
        }
        let told = outcome.err().map(|error| error.to_string());
        for reply in self.after.removed.drain(..) {
            let outcome = told
                .clone()
                .map_or(Ok(()), |text| Err(Error::Conflict(text)));
            let _ = reply.send(outcome);
        }
        gone
    }

    async fn release(&mut self) -> Result<()> {
        self.house.runtime.remove_layer(&self.record.id).await?;
        let files = self.files.clone();
        blocking(move || files.remove()).await?;
        if self.after.remove_volumes {
            self.house.remove_anonymous_volumes(&self.record).await;
        }
        self.house.erase(&self.record).await
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

fn still_runs(record: &Record) -> Error {
    let (name, phase) = (&record.name, record.phase.name());
    let advice = match record.phase {
        Phase::Paused => "unpause and then stop the container before removing or force remove",
        _ => "stop the container before removing or force remove",
    };
    Error::Conflict(format!(
        "cannot remove container \"/{name}\": container is {phase}: {advice}"
    ))
}

/// As shells and Docker tell it: 127 for a program that is not there, 126 for one that cannot run.
fn exit_code(error: &Error) -> i32 {
    match error {
        Error::Lifecycle(error) => match error.root() {
            berth_lifecycle::Error::Program { exit_code, .. } => *exit_code,
            _ => 128,
        },
        _ => 128,
    }
}

/// A name with or without `SIG`, or a number.
pub(crate) fn signal(name: &str) -> Result<u32> {
    let number = match name.parse::<u32>() {
        Ok(number) if (1..=64).contains(&number) => Some(number),
        Ok(_) => None,
        Err(_) => {
            let upper = name.to_uppercase();
            let full = match upper.starts_with("SIG") {
                true => upper,
                false => format!("SIG{upper}"),
            };
            berth_lifecycle::signal::parse(&full).and_then(|number| u32::try_from(number).ok())
        }
    };
    number.ok_or_else(|| Error::invalid(format!("invalid signal: {name}")))
}

/// Takes every limit that an update sets over the present one.
fn merge(present: &mut Limits, update: Limits) {
    let unset = Limits::default();
    macro_rules! take {
        ($($field:ident),*) => { $( if update.$field != unset.$field { present.$field = update.$field; } )* };
    }
    take!(
        memory,
        memory_swap,
        memory_reservation,
        cpu_shares,
        nano_cpus,
        cpu_period,
        cpu_quota,
        cpuset_cpus,
        cpuset_mems,
        pids_limit
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [("KILL", 9), ("SIGTERM", 15), ("hup", 1), ("10", 10)] {
            assert_eq!(signal(name).unwrap(), number, "{name}");
        }
        for name in ["", "0", "65", "SIGNOTHING", "-9"] {
            assert!(signal(name).is_err(), "{name}");
        }
    }

    #[test]
    fn an_update_leaves_what_it_does_not_name() {
        let mut present = Limits {
            memory: 1,
            cpu_shares: 2,
            ..Limits::default()
        };
        merge(
            &mut present,
            Limits {
                memory: 5,
                ..Limits::default()
            },
        );
        assert_eq!((present.memory, present.cpu_shares), (5, 2));
    }
}
