//! How others ask the task that owns a container.

use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};

/// Requests that may wait for one task; more than that and senders wait.
const DEPTH: usize = 32;

pub(crate) type Reply<T = ()> = oneshot::Sender<Result<T>>;

pub(crate) struct Mailbox<C> {
    owner: String,
    sender: mpsc::Sender<C>,
}

impl<C> Mailbox<C> {
    pub fn new(owner: &str) -> (Self, mpsc::Receiver<C>) {
        let (sender, requests) = mpsc::channel(DEPTH);
        let owner = owner.to_owned();
        (Self { owner, sender }, requests)
    }

    /// Without an answer. One who has so much to do will come to it by that.
    pub fn hint(&self, command: C) {
        let _ = self.sender.try_send(command);
    }

    /// [`Error::Gone`] if the container is removed before it answers.
    pub async fn ask<T>(
        &self,
        action: &'static str,
        command: impl FnOnce(Reply<T>) -> C,
    ) -> Result<T> {
        let gone = || Error::Gone {
            id: self.owner.clone(),
            action,
        };
        let (reply, answer) = oneshot::channel();
        self.sender.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
