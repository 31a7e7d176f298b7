//! Runs: begun, taken over from a former daemon, ended, and begun again by the policy.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::record::{ContainerRecord, ContainerState, now};
use berth_lifecycle::{StdStreams, chain};
use berth_names::SandboxId;
use berth_network::PortRequest;
use tokio::time::Instant;

use super::{Run, Task};
use crate::checkpoints;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::files::blocking;
use crate::record::{Phase, Record};
use crate::request::{self, Network};
use crate::{policy, ports};

impl Task {
    /// What a former daemon left: a run that goes on, one whose end nobody wrote down, or none.
    pub(super) async fn take_over(&mut self, found: Option<Arc<berth_lifecycle::Container>>) {
        if let Err(error) = checkpoints::take_back(&self.files).await {
            tracing::warn!(id = %self.record.id, %error, "half a checkpoint stays");
        }
        match found {
            None => self.nothing_runs().await,
            Some(found) => self.found(found).await,
        }
        if self.run.is_some() {
            self.send_on(None);
        }
        if self.record.phase == Phase::Exited {
            self.remove_if_wanted();
        }
    }

    /// Whatever ran went with the host, or its end was seen to the last.
    async fn nothing_runs(&mut self) {
        let house = Arc::clone(&self.house);
        house.unmount_volumes(&self.record).await;
        house.leave(self.change()).await;
        house.remove_pods_of(&self.record.id).await;
        if self.record.phase.runs() {
            let record = self.change();
            record.exit_code = 255;
            record.finished_at = now();
            record.ends += 1;
            self.end_checks();
        }
        if !matches!(self.record.phase, Phase::Created | Phase::Exited) {
            self.change().phase = Phase::Exited;
            self.persist();
        }
        if self.record.phase == Phase::Exited && policy::at_start(&self.record) {
            self.restart_at = Some(Instant::now());
            self.change().phase = Phase::Restarting;
        }
    }

    async fn found(&mut self, found: Arc<berth_lifecycle::Container>) {
        let view = found.view();
        let ended_at = view.exit.as_ref().map(|exit| exit.finished_at);
        let is_told = !self.record.phase.runs() && ended_at == Some(self.record.finished_at);
        match view.state {
            ContainerState::Running => {
                let record = self.change();
                if !record.phase.runs() {
                    begun(record);
                }
                record.pid = view.pid.unwrap_or(0);
                record.started_at = view.started_at;
                let house = Arc::clone(&self.house);
                house.recall(self.change());
                self.adopt(view.pod.clone(), found);
                match self.record.phase {
                    Phase::Running => self.go_on_checking(),
                    _ => self.stop_checks(),
                }
            }
            ContainerState::Exited if !is_told => self.adopt(view.pod.clone(), found),
            // Its start was cut short, or its end was written down and not cleared away.
            ContainerState::Exited | ContainerState::Created | ContainerState::Creating => {
                self.clear(&view.pod.clone()).await;
                self.nothing_runs().await;
            }
        }
        self.persist();
    }

    pub(super) fn adopt(&mut self, pod: SandboxId, container: Arc<berth_lifecycle::Container>) {
        self.house.note_volumes(&self.record);
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

    pub(super) async fn start(&mut self) -> Result<()> {
        self.restart_at = None;
        if matches!(self.record.phase, Phase::Removing | Phase::Dead) {
            let id = &self.record.id;
            return Err(Error::Conflict(format!(
                "container {id} is marked for removal and cannot be started"
            )));
        }
        // Who writes to its layer meanwhile is waited for: a layer is mounted once.
        let _alone = Arc::clone(&self.container.layer).write_owned().await;
        match self.run_told().await {
            Ok((view, link)) => {
                let record = self.change();
                begun(record);
                record.pid = view.pid.unwrap_or(0);
                record.started_at = view.started_at;
                self.begin_checks();
                self.persist();
                self.send_on(link);
                self.house.tell(Event::of(&self.record, "start"));
                self.house.tell_linked(&self.record);
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
    pub(super) async fn run_once(&mut self) -> Result<Arc<ContainerRecord>> {
        let house = Arc::clone(&self.house);
        house.mount_volumes(self.change()).await?;
        let begun = self.run_mounted().await;
        if begun.is_err() {
            house.unmount_volumes(&self.record).await;
        }
        begun
    }

    async fn run_mounted(&mut self) -> Result<Arc<ContainerRecord>> {
        let house = Arc::clone(&self.house);
        let image = self.record.image_id.to_string();
        let image = house
            .images
            .get(&image)
            .ok_or(Error::ImageNotFound(image))?;
        let exposed = image.config.exposed_ports().map(str::to_owned);
        let ports = ports::wanted(&self.record.config, &self.record.host, exposed)?;
        let sharing = house.sharing(&self.record)?;
        let mut pod_request = request::pod(&self.record, &self.files, &sharing)?;
        pod_request.dns = house.resolver(sharing.network.as_deref().unwrap_or(&self.record));
        let init = house.runtime.init_program();
        let mut container_request =
            request::container(&self.record, &image, &self.files, &sharing, init)?;
        if let Some(archive) = &self.checkpoint {
            container_request.image = archive.display().to_string();
        }
        let pod = house.runtime.run_pod(pod_request).await?;
        berth_faults::passing("docker.start.after-pod");
        match self.run_in(&pod, ports, container_request).await {
            Ok(view) => Ok(view),
            Err(error) => {
                self.clear(&pod).await;
                Err(error)
            }
        }
    }

    pub(super) async fn run_in(
        &mut self,
        pod: &SandboxId,
        ports: Vec<PortRequest>,
        wanted: berth_lifecycle::request::ContainerRequest,
    ) -> Result<Arc<ContainerRecord>> {
        let runtime = self.house.runtime.clone();
        let house = Arc::clone(&self.house);
        let netns = runtime.netns(pod);
        house.join(self.change(), netns, ports).await?;
        berth_faults::passing("docker.start.after-networks");
        let addresses = self.record.addresses.clone();
        self.write_hosts(&addresses).await?;
        let id = runtime.create_container(pod.as_str(), wanted).await?;
        let container = runtime.container(id.as_str())?;
        berth_faults::passing("docker.start.after-create");
        let waiting = std::mem::take(&mut self.waiting);
        let streams: Vec<StdStreams> = waiting.iter().map(|(streams, _)| *streams).collect();
        let joined = container.start_attached(&streams).await?;
        berth_faults::passing("docker.start.after-start");
        for ((_, client), streams) in waiting.into_iter().zip(joined) {
            // A client that left meanwhile lets go of its streams by that.
            let _ = client.send(streams);
        }
        let view = container.view();
        self.adopt(pod.clone(), container);
        Ok(view)
    }

    /// Shows a container that runs the addresses that it has by now.
    pub(super) async fn refresh_hosts(&self) {
        if self.run.is_none() {
            return;
        }
        let addresses = self.record.addresses.clone();
        if let Err(error) = self.write_hosts(&addresses).await {
            tracing::warn!(id = %self.record.id, error = chain(&error), "/etc/hosts not refreshed");
        }
    }

    pub(super) async fn write_hosts(&self, addresses: &[IpAddr]) -> Result<()> {
        let (files, network) = (self.files.clone(), request::network(&self.record.host)?);
        let added = self.record.host.extra_hosts.iter();
        let mut added: Vec<(String, String)> = added
            .filter_map(|entry| entry.split_once(':').or_else(|| entry.split_once('=')))
            .map(|(name, address)| (name.to_owned(), address.to_owned()))
            .collect();
        for link in self.house.links(&self.record).unwrap_or_default() {
            if let Some(address) = link.address() {
                added.push((link.names(), address.to_string()));
            }
        }
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
            // The other one's file is both's.
            Network::Shared(_) => Ok(()),
        })
        .await
    }

    /// The end of a run.
    pub(super) async fn ended(&mut self, view: &ContainerRecord) {
        let Some(run) = self.run.take() else { return };
        self.container.set_run(None);
        self.house.commands.forget_unstarted(&self.record.id);
        self.after.kill_at = None;
        self.end_checks();
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
        berth_faults::passing("docker.end.before-clearing");
        self.clear(&run.pod).await;
        self.persist();
        berth_faults::passing("docker.end.after-clearing");
        self.answer_stops().await;
    }

    /// A restart by the policy.
    pub(super) async fn again(&mut self) {
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
    pub(super) async fn clear(&mut self, pod: &SandboxId) {
        let house = Arc::clone(&self.house);
        house.leave(self.change()).await;
        if let Err(error) = self.house.runtime.remove_pod(pod.as_str()).await {
            tracing::warn!(id = %self.record.id, error = chain(&error), "its run is not cleared");
        }
        if let Some(forward) = self.forward.take() {
            forward.drained().await;
        }
        self.house.unmount_volumes(&self.record).await;
    }
}

/// Nothing of the run before counts.
fn begun(record: &mut Record) {
    record.phase = Phase::Running;
    record.finished_at = 0;
    (record.exit_code, record.oom_killed) = (0, false);
    record.error.clear();
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
