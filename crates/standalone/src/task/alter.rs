//! Everything else that is done to a container, and its removal.

use std::sync::Arc;

use berth_lifecycle::StdStreams;
use tokio::sync::oneshot;

use super::{Attachment, Task};
use crate::config::{Limits, RestartPolicy};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::record::{Phase, Record};
use crate::{limits, policy};

impl Task {
    /// Has the running container ask the resolvers that follow from the networks it is on by now.
    pub(super) async fn resolve_anew(&self) {
        let Some(run) = &self.run else { return };
        let Some(dns) = self.house.resolver(&self.record) else {
            return;
        };
        let resolved = match self.house.runtime.pod(run.pod.as_str()) {
            Ok(pod) => pod.resolve(dns).await,
            Err(error) => Err(error),
        };
        if let Err(error) = resolved {
            tracing::warn!(id = %self.record.id, %error, "its resolvers stay as they were");
        }
    }

    pub(super) async fn pause(&mut self) -> Result<()> {
        let id = &self.record.id;
        let Some(run) = &self.run else {
            return Err(Error::Conflict(format!("container {id} is not running")));
        };
        if self.record.phase == Phase::Paused {
            return Err(Error::Conflict(format!("container {id} is already paused")));
        }
        run.container.pause().await?;
        self.change().phase = Phase::Paused;
        self.stop_checks();
        self.persist();
        self.house.tell(Event::of(&self.record, "pause"));
        Ok(())
    }

    pub(super) async fn unpause(&mut self) -> Result<()> {
        let id = &self.record.id;
        match &self.run {
            Some(run) if self.record.phase == Phase::Paused => run.container.resume().await?,
            _ => return Err(Error::Conflict(format!("container {id} is not paused"))),
        }
        self.change().phase = Phase::Running;
        self.go_on_checking();
        self.persist();
        self.house.tell(Event::of(&self.record, "unpause"));
        Ok(())
    }

    pub(super) async fn attach(&mut self, streams: StdStreams) -> Result<Attachment> {
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

    pub(super) async fn update(
        &mut self,
        limits: Limits,
        policy: Option<RestartPolicy>,
    ) -> Result<()> {
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

    /// A container that is to go with its run goes as well when that could not begin.
    pub(super) fn remove_if_wanted(&mut self) {
        let ends_with_run = self.record.host.auto_remove && self.run.is_none();
        if ends_with_run && self.after.removed.is_empty() {
            let (reply, _nobody) = oneshot::channel();
            self.after.removed.push(reply);
            self.after.remove_volumes = true;
        }
    }

    /// True when the container is gone and the task may end.
    pub(super) async fn remove(&mut self) -> bool {
        self.change().phase = Phase::Removing;
        self.show();
        // Who copies files into it is waited for; those that come later are refused.
        let _alone = Arc::clone(&self.container.layer).write_owned().await;
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
        if self.after.remove_volumes && self.record.has_anonymous_volumes() {
            // What is asked for is not known to the next daemon otherwise.
            self.change().removes_volumes = true;
            self.house.commit(&self.record).await?;
        }
        self.house.dispose(&self.record).await
    }
}

pub(super) fn still_runs(record: &Record) -> Error {
    let (name, phase) = (&record.name, record.phase.name());
    let advice = match record.phase {
        Phase::Paused => "unpause and then stop the container before removing or force remove",
        _ => "stop the container before removing or force remove",
    };
    Error::Conflict(format!(
        "cannot remove container \"/{name}\": container is {phase}: {advice}"
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

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
