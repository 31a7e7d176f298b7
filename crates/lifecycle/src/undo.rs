//! Undo steps of an operation that acquires several things.

use std::future::Future;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::error::{Error, Result, chain};

/// Steps to take back, newest first. Dropped without [`Undo::run`] it does nothing: success.
#[derive(Default)]
pub struct Undo {
    steps: Vec<(&'static str, BoxFuture<'static, Result<()>>)>,
}

impl Undo {
    /// Names the undo of what was just acquired, or is about to be where a failed attempt may
    /// leave part of it behind.
    pub fn push(
        &mut self,
        what: &'static str,
        step: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        self.steps.push((what, step.boxed()));
    }

    /// Takes everything back. A step that fails is logged and the rest goes on.
    pub async fn run(mut self) {
        while let Some((what, step)) = self.steps.pop() {
            if let Err(error) = step.await {
                tracing::warn!(what, error = chain(&error), "an undo step failed");
            }
        }
    }
}

/// Runs blocking `work` away from the async workers.
pub async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(_) => Err(Error::TaskGone {
            id: "blocking work".to_owned(),
            action,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;

    #[tokio::test]
    async fn steps_are_undone_newest_first_even_when_one_fails() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for (index, what) in ["first", "second", "third"].into_iter().enumerate() {
            let seen = Arc::clone(&seen);
            undo.push(what, async move {
                seen.lock().push(index);
                if index == 1 {
                    Err(Error::PodNotFound("x".into()))
                } else {
                    Ok(())
                }
            });
        }
        undo.run().await;
        assert_eq!(*seen.lock(), [2, 1, 0]);
    }
}
