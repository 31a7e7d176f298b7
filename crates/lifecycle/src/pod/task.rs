//! The task that owns a pod's transitions.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tracing::Instrument;

use super::{Command, Init, Pod, cgroup, run};
use crate::core::Core;
use crate::error::{Error, Result, chain};
use crate::events::EventKind;
use crate::mailbox::{Reply, Requests};
use crate::record::{self, PodRecord, PodState};
use crate::request::{Dns, Resources};
use crate::undo::blocking;

pub(crate) struct Task {
    core: Arc<Core>,
    pod: Arc<Pod>,
    /// The same that others see, until it changes.
    record: Arc<PodRecord>,
    init: Option<Init>,
}

impl Task {
    /// Starts the task of a pod and makes the pod findable.
    pub(crate) fn spawn(core: Arc<Core>, record: PodRecord, init: Option<Init>) -> Arc<Pod> {
        let record = Arc::new(record);
        let (pod, inbox) = Pod::new(Arc::clone(&record));
        core.pods.insert(record.id.as_str(), Arc::clone(&pod));
        let task = Self {
            core,
            pod: Arc::clone(&pod),
            record,
            init,
        };
        tokio::spawn(task.run(inbox));
        pod
    }

    async fn run(mut self, mut inbox: Requests<Command>) {
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    // On the heap: most pods do nothing, and there may be thousands.
                    Some((span, command)) => {
                        if Box::pin(self.obey(command)).instrument(span).await {
                            return;
                        }
                    }
                    None => return,
                },
                () = init_ended(&mut self.init) => {
                    tracing::warn!(id = %self.record.id, "the pod's init ended");
                    if let Err(error) = Box::pin(self.stop()).await {
                        tracing::warn!(id = %self.record.id, error = chain(&error), "stop failed");
                    }
                }
            }
        }
    }

    /// True when the pod is gone and the task may end.
    async fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Stop(reply) => {
                let outcome = self.stop().await;
                let _ = reply.send(outcome);
            }
            Command::Remove(reply) => return self.remove(reply).await,
            Command::Update {
                overhead,
                resources,
                reply,
            } => {
                let outcome = self.update(overhead, resources).await;
                let _ = reply.send(outcome);
            }
            Command::Resolve(dns, reply) => {
                let outcome = self.resolve(dns).await;
                let _ = reply.send(outcome);
            }
        }
        false
    }

    /// Values that an update names replace the present ones.
    async fn update(
        &mut self,
        overhead: Option<Box<Resources>>,
        resources: Option<Box<Resources>>,
    ) -> Result<()> {
        self.pod.ready("update it")?;
        let mut request = self.record.request.clone();
        for (present, update) in [
            (&mut request.overhead, overhead),
            (&mut request.resources, resources),
        ] {
            if let Some(update) = update {
                self.core.check_resources(&update)?;
                present.get_or_insert_default().merge(&update);
            }
        }
        cgroup::limit(&self.core, &self.record, &request).await?;
        berth_faults::passing("pod.update.after-cgroup");
        self.change().request = request;
        self.persist().await;
        Ok(())
    }

    async fn resolve(&mut self, dns: Dns) -> Result<()> {
        self.pod.ready("change its resolvers")?;
        let files = self.core.pod_files(&self.record.id);
        let (old, new) = (self.record.request.dns.clone(), dns.clone());
        let written = blocking("write resolv.conf of", move || {
            files.change_resolvers(old.as_ref(), &new)
        });
        if written.await? {
            self.change().request.dns = Some(dns);
            self.persist().await;
        }
        Ok(())
    }

    /// Stops what runs and releases what is held. A failure does not keep the rest from being
    /// done; what is left is tried again by the next stop.
    async fn stop(&mut self) -> Result<()> {
        let mut failures = Failures::default();
        let was_ready = self.record.state != PodState::NotReady;
        if was_ready {
            self.change().state = PodState::NotReady;
            self.persist().await;
            berth_faults::passing("pod.stop.after-record");
        }
        let containers = self.core.containers_of(&self.record.id);
        let stops = containers
            .iter()
            .map(|container| container.stop(Duration::ZERO));
        for outcome in join_all(stops).await {
            match outcome {
                Err(Error::TaskGone { .. }) => {}
                outcome => failures.note(outcome),
            }
        }
        berth_faults::passing("pod.stop.after-containers");
        if let Some(init) = self.init.take() {
            failures.note(init.stop(Arc::clone(&self.core)).await);
            self.change().init_pid = None;
            berth_faults::passing("pod.stop.after-init");
        }
        if self.record.network_held {
            let released = run::detach(Arc::clone(&self.core), Arc::clone(&self.record)).await;
            self.change().network_held = released.is_err();
            failures.note(released);
            berth_faults::passing("pod.stop.after-network");
        }
        if !self.record.network_held {
            let files = self.core.pod_files(&self.record.id);
            failures.note(blocking("unpin", move || run::unpin(&files)).await);
            berth_faults::passing("pod.stop.after-namespaces");
        }
        self.persist().await;
        berth_faults::passing("pod.stop.before-answer");
        if was_ready {
            self.core.tell_pod(EventKind::Stopped, &self.pod);
        }
        failures.first()
    }

    /// True when the pod is gone and the task may end.
    async fn remove(&mut self, reply: Reply) -> bool {
        let outcome = self.release().await;
        let gone = outcome.is_ok();
        if gone {
            self.core.forget_pod(&self.record);
            self.core.tell_pod(EventKind::Deleted, &self.pod);
            berth_faults::passing("pod.remove.before-answer");
        }
        let _ = reply.send(outcome);
        gone
    }

    async fn release(&mut self) -> Result<()> {
        self.stop().await?;
        let containers = self.core.containers_of(&self.record.id);
        let mut failures = Failures::default();
        for outcome in join_all(containers.iter().map(|container| container.remove())).await {
            failures.note(outcome);
        }
        failures.first()?;
        berth_faults::at("pod.remove.after-containers")?;
        cgroup::release(Arc::clone(&self.core), Arc::clone(&self.record)).await?;
        berth_faults::at("pod.remove.after-cgroup")?;
        let files = self.core.pod_files(&self.record.id);
        blocking("remove", move || files.remove()).await?;
        berth_faults::at("pod.remove.after-files")?;
        Ok(())
    }

    fn change(&mut self) -> &mut PodRecord {
        Arc::make_mut(&mut self.record)
    }

    async fn persist(&mut self) {
        self.pod.show(Arc::clone(&self.record));
        self.core.store_pod(&self.record);
        let files = self.core.pod_files(&self.record.id);
        let record = Arc::clone(&self.record);
        let written = blocking("write the record of", move || {
            // After a reboot the runtime directory is empty, and the record has nowhere to be.
            if files.dir().exists() {
                record::write(&files.record(), &*record)
            } else {
                Ok(())
            }
        });
        if let Err(error) = written.await {
            tracing::error!(id = %self.record.id, error = chain(&error), "record not written");
        }
    }
}

/// Failures of steps that must all be tried: the first is reported, the others are logged.
#[derive(Default)]
struct Failures(Option<Error>);

impl Failures {
    fn note(&mut self, outcome: Result<()>) {
        match (outcome, &self.0) {
            (Ok(()), _) => {}
            (Err(error), None) => self.0 = Some(error),
            (Err(error), Some(_)) => tracing::warn!(error = chain(&error), "also failed"),
        }
    }

    fn first(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

async fn init_ended(init: &mut Option<Init>) {
    match init {
        Some(init) => init.ended().await,
        None => pending().await,
    }
}
