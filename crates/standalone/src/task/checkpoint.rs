//! Writing down what runs.

use std::time::Duration;

use berth_lifecycle::Afterwards;

use super::Task;
use crate::checkpoints::{self, CheckpointDraft};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::mailbox::Reply;
use crate::name;
use crate::record::Phase;

impl Task {
    pub(super) async fn start_from(&mut self, checkpoint: Option<CheckpointDraft>) -> Result<()> {
        if let Some(draft) = checkpoint {
            self.checkpoint = Some(draft.archive(&self.files, &self.record.name)?);
        }
        let started = self.start().await;
        self.checkpoint = None;
        started
    }

    /// Answers when it is written, and the container has ended if it is to.
    pub(super) async fn checkpoint(&mut self, draft: &CheckpointDraft, reply: Reply) {
        if let Err(error) = self.write_down(draft).await {
            let _ = reply.send(Err(error));
            return;
        }
        let event = Event::of(&self.record, "checkpoint").with("checkpoint", &draft.name);
        self.house.tell(event);
        match &self.run {
            Some(_) if draft.ends => {
                self.change().stopped_by_hand = true;
                self.after.stopped.push(reply);
            }
            _ => drop(reply.send(Ok(()))),
        }
    }

    async fn write_down(&mut self, draft: &CheckpointDraft) -> Result<()> {
        name::checkpoint(&draft.name)?;
        let name = self.record.name.clone();
        let Some(run) = self
            .run
            .as_ref()
            .filter(|_| self.record.phase == Phase::Running)
        else {
            return Err(Error::Conflict(format!(
                "cannot checkpoint container {name}: container {name} is not running"
            )));
        };
        if self.record.config.tty {
            return Err(Error::invalid(format!(
                "cannot checkpoint container {name}: checkpoints of containers with a terminal (tty) cannot be made"
            )));
        }
        let archive = draft.begin(&self.files, &name).await?;
        let id = run.container.id().to_string();
        let afterwards = match draft.ends {
            true => Afterwards::Ends,
            false => Afterwards::Runs,
        };
        let runtime = self.house.runtime.clone();
        let made = runtime.checkpoint(&id, &archive, Duration::ZERO, afterwards);
        let made = match made.await {
            Ok(()) => draft.finish(&self.files, &name).await,
            Err(error) => Err(error.into()),
        };
        if made.is_err() {
            checkpoints::take_back(&self.files).await?;
        }
        made
    }
}
