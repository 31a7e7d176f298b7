//! One container, as others see it: its record, and the requests to the task that owns it.

use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::StdStreams;
use tokio::sync::{mpsc, watch};

use crate::checkpoints::CheckpointDraft;
use crate::config::{Limits, RestartPolicy};
use crate::endpoint::EndpointSettings;
use crate::error::{Error, Result};
use crate::logs::{LogQuery, Logs};
use crate::mailbox::Mailbox;
use crate::record::Record;
use crate::task::{Attachment, Command, SIGKILL, StopWish, signal};

/// How long a kill waits for the end. Longer takes only what the kernel holds.
const DYING: Duration = Duration::from_secs(10);

/// One container, as others see it.
pub struct Container {
    shown: watch::Sender<Arc<Record>>,
    run: watch::Sender<Option<Arc<berth_lifecycle::Container>>>,
    pub(crate) mailbox: Mailbox<Command>,
    /// Held while its layer is written to from outside: shared while it runs, alone while it does not
    /// or is started. A layer is mounted by one at a time.
    pub(crate) layer: Arc<tokio::sync::RwLock<()>>,
}

impl Container {
    /// With the end of the mailbox for the task that owns it.
    pub(crate) fn new(record: Record) -> (Arc<Self>, mpsc::Receiver<Command>) {
        let (mailbox, inbox) = Mailbox::new(record.id.as_str());
        let container = Self {
            run: watch::Sender::new(None),
            mailbox,
            layer: Arc::default(),
            shown: watch::Sender::new(Arc::new(record)),
        };
        (Arc::new(container), inbox)
    }

    /// The container at this moment.
    pub fn view(&self) -> Arc<Record> {
        Arc::clone(&self.shown.borrow())
    }

    /// Every change of the record from now on; it ends with the container.
    pub fn watch(&self) -> watch::Receiver<Arc<Record>> {
        self.shown.subscribe()
    }

    /// The core's container of the present run.
    pub fn running(&self) -> Result<Arc<berth_lifecycle::Container>> {
        let view = self.view();
        let run = self.run.borrow().clone();
        run.filter(|_| view.phase.runs())
            .ok_or_else(|| Error::NotRunning(view.id.to_string()))
    }

    pub async fn start(&self) -> Result<()> {
        self.start_from(None).await
    }

    /// From its beginning, or as a checkpoint has it.
    pub async fn start_from(&self, checkpoint: Option<CheckpointDraft>) -> Result<()> {
        let make = |reply| Command::Start(checkpoint, reply);
        self.mailbox.ask("start", make).await
    }

    /// Writes down what runs.
    pub async fn checkpoint(&self, draft: CheckpointDraft) -> Result<()> {
        let make = |reply| Command::Checkpoint(draft, reply);
        self.mailbox.ask("checkpoint", make).await
    }

    pub async fn stop(&self, wish: StopWish) -> Result<()> {
        self.mailbox
            .ask("stop", |reply| Command::Stop(wish, reply))
            .await
    }

    pub async fn restart(&self, wish: StopWish) -> Result<()> {
        self.mailbox
            .ask("restart", |reply| Command::Restart(wish, reply))
            .await
    }

    /// Sends a signal, by name or number; empty means `KILL`.
    pub async fn kill(&self, name: &str) -> Result<()> {
        let number = signal(if name.is_empty() { "KILL" } else { name })?;
        self.mailbox
            .ask("kill", |reply| Command::Kill(number, reply))
            .await?;
        if number == SIGKILL {
            // What cannot be caught is answered when it has been obeyed: what comes next is often
            // the removal.
            let mut shown = self.watch();
            let ended = shown.wait_for(|record| !record.phase.runs());
            let _or_still_dying = tokio::time::timeout(DYING, ended).await;
        }
        Ok(())
    }

    pub async fn pause(&self) -> Result<()> {
        self.mailbox.ask("pause", Command::Pause).await
    }

    pub async fn unpause(&self) -> Result<()> {
        self.mailbox.ask("unpause", Command::Unpause).await
    }

    /// Connects it to one more network.
    pub async fn connect(&self, network: &str, settings: EndpointSettings) -> Result<()> {
        let make = |reply| Command::Connect(network.to_owned(), Box::new(settings), reply);
        self.mailbox.ask("connect", make).await
    }

    pub async fn disconnect(&self, network: &str, force: bool) -> Result<()> {
        let make = |reply| Command::Disconnect(network.to_owned(), force, reply);
        self.mailbox.ask("disconnect", make).await
    }

    pub async fn update(&self, limits: Limits, policy: Option<RestartPolicy>) -> Result<()> {
        let limits = Box::new(limits);
        self.mailbox
            .ask("update", |reply| Command::Update(limits, policy, reply))
            .await
    }

    /// Joins its streams: those of the run, or of the next one, from its first byte.
    pub async fn attach(&self, streams: StdStreams) -> Result<Attachment> {
        self.mailbox
            .ask("attach to", |reply| Command::Attach(streams, reply))
            .await
    }

    /// Removes it, with the volumes that nobody named if `volumes` says so.
    pub async fn remove(&self, force: bool, volumes: bool) -> Result<()> {
        let command = |reply| Command::Remove {
            force,
            volumes,
            reply,
        };
        match self.mailbox.ask("remove", command).await {
            Err(Error::Gone { .. }) => Ok(()),
            other => other,
        }
    }

    /// What it wrote.
    pub async fn logs(&self, query: LogQuery) -> Result<Logs> {
        let view = self.view();
        let Some(path) = &view.log_path else {
            return Err(Error::invalid(
                "configured logging driver does not support reading",
            ));
        };
        Logs::open(path, query, self.runs()).await
    }

    /// Whether it runs, as it changes.
    pub(crate) fn runs(&self) -> watch::Receiver<bool> {
        let mut shown = self.watch();
        let runs = shown.borrow_and_update().phase.runs();
        let (sender, receiver) = watch::channel(runs);
        if runs {
            tokio::spawn(async move {
                tokio::select! {
                    _ended = shown.wait_for(|record| !record.phase.runs()) => {}
                    () = sender.closed() => {}
                }
                sender.send_replace(false);
            });
        }
        receiver
    }

    pub(crate) fn show(&self, record: Arc<Record>) {
        self.shown.send_replace(record);
    }

    pub(crate) fn set_run(&self, run: Option<Arc<berth_lifecycle::Container>>) {
        self.run.send_replace(run);
    }
}
