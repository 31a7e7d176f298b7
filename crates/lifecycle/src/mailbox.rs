//! How others ask the task that owns a pod or a container.

use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use crate::error::{Error, Result};

/// Requests that may wait for one task; more than that and senders wait.
const DEPTH: usize = 64;

/// Where the task answers. Whoever asked may have left: then nobody hears it.
pub(crate) type Reply<T = ()> = oneshot::Sender<Result<T>>;
/// The task's end: requests with the span that they were made in, which the work for them
/// belongs to.
pub(crate) type Requests<C> = mpsc::Receiver<(Span, C)>;

/// The asking end. The task lives until it has removed what it owns, or the mailbox is dropped.
pub(crate) struct Mailbox<C> {
    owner: String,
    sender: mpsc::Sender<(Span, C)>,
}

impl<C> Mailbox<C> {
    /// A mailbox of the task that owns `owner`, an id.
    pub fn new(owner: &str) -> (Self, Requests<C>) {
        let (sender, requests) = mpsc::channel(DEPTH);
        let owner = owner.to_owned();
        (Self { owner, sender }, requests)
    }

    /// Sends a command and waits for its answer; [`Error::TaskGone`] if the task ended first.
    pub async fn ask<T>(
        &self,
        action: &'static str,
        command: impl FnOnce(Reply<T>) -> C,
    ) -> Result<T> {
        let gone = || Error::TaskGone {
            id: self.owner.clone(),
            action,
        };
        let (reply, answer) = oneshot::channel();
        self.sender
            .send((Span::current(), command(reply)))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_a_task_that_has_ended_is_told_so() {
        let (mailbox, mut requests) = Mailbox::new("c1");
        let task = tokio::spawn(async move {
            if let Some((_, reply)) = requests.recv().await {
                let reply: Reply = reply;
                let _ = reply.send(Ok(()));
            }
            // The second request is taken and its reply dropped; the third finds nobody.
            requests.recv().await.is_some()
        });
        assert!(mailbox.ask("start", |reply| reply).await.is_ok());
        for _ in 0..2 {
            let answer = mailbox.ask("start", |reply| reply).await;
            assert!(matches!(answer, Err(Error::TaskGone { id, .. }) if id == "c1"));
        }
        assert!(task.await.unwrap());
    }
}
