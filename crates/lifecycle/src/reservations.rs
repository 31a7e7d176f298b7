//! Names in use: one operation per name, joined by whoever repeats the request.
//!
//! ```text
//!            claim            operation succeeds          release
//!   (free) ─────────▶ InFlight ─────────────────▶ Present ────────▶ (free)
//!                        └── operation fails ──▶ (free)
//! ```
//!
//! A client that timed out repeats its request. While the first one is in flight it joins it; when
//! the first one succeeded without anyone left to hear of it, the repeated one is told; only a
//! name whose owner knows of it is a conflict. A kubelet that has forgotten its pod for a moment
//! has to get that conflict: given the pod, it would start each container a second time in it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use crate::error::{Error, Result};

type Outcome<Id> = Result<Id, Arc<Error>>;

enum Slot<Id> {
    InFlight(Shared<BoxFuture<'static, Outcome<Id>>>),
    Present { id: Id, told: bool },
}

/// The names of one kind of thing.
pub struct Reservations<Id> {
    slots: Arc<Mutex<HashMap<String, Slot<Id>>>>,
}

impl<Id> Default for Reservations<Id> {
    fn default() -> Self {
        Self {
            slots: Arc::default(),
        }
    }
}

impl<Id: Clone + Send + Sync + 'static> Reservations<Id> {
    /// Runs `operation` under `key`, or joins the one that runs already. The operation goes on if
    /// the caller is dropped. `conflict` words the error for a name that is taken.
    pub async fn claim(
        &self,
        key: &str,
        operation: impl Future<Output = Result<Id>> + Send + 'static,
        conflict: impl FnOnce(Id) -> Error,
    ) -> Result<Id> {
        let flight = {
            let mut slots = self.slots.lock();
            match slots.get_mut(key) {
                Some(Slot::Present { id, told: true }) => return Err(conflict(id.clone())),
                Some(Slot::Present { id, told }) => {
                    *told = true;
                    return Ok(id.clone());
                }
                Some(Slot::InFlight(flight)) => flight.clone(),
                None => {
                    let flight = self.launch(key.to_owned(), operation);
                    slots.insert(key.to_owned(), Slot::InFlight(flight.clone()));
                    flight
                }
            }
        };
        let outcome = flight.await;
        if outcome.is_ok() {
            self.is_known(key);
        }
        outcome.map_err(Error::Shared)
    }

    fn launch(
        &self,
        key: String,
        operation: impl Future<Output = Result<Id>> + Send + 'static,
    ) -> Shared<BoxFuture<'static, Outcome<Id>>> {
        let slots = Arc::clone(&self.slots);
        let task = tokio::spawn(async move {
            let outcome = operation.await.map_err(Arc::new);
            let mut slots = slots.lock();
            match &outcome {
                Ok(id) => slots.insert(
                    key,
                    Slot::Present {
                        id: id.clone(),
                        told: false,
                    },
                ),
                Err(_) => slots.remove(&key),
            };
            drop(slots);
            outcome
        });
        let id = "operation";
        async move {
            task.await.unwrap_or_else(|_| {
                Err(Arc::new(Error::TaskGone {
                    id: id.to_owned(),
                    action: "create",
                }))
            })
        }
        .boxed()
        .shared()
    }

    /// Records a name that was found in use, as after a restart. Whether its owner was `told` of
    /// it before that is not known: where not, a repeated request is answered once more.
    pub fn adopt(&self, key: String, id: Id, told: bool) {
        self.slots.lock().insert(key, Slot::Present { id, told });
    }

    /// Whoever asked for the name has shown to know of its owner.
    pub fn is_known(&self, key: &str) {
        if let Some(Slot::Present { told, .. }) = self.slots.lock().get_mut(key) {
            *told = true;
        }
    }

    pub fn release(&self, key: &str) {
        self.slots.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    fn conflict(id: u32) -> Error {
        Error::PodNotFound(id.to_string())
    }

    #[tokio::test]
    async fn a_repeated_request_joins_the_one_in_flight() {
        let names = Reservations::<u32>::default();
        let runs = Arc::new(AtomicU32::new(0));
        let operation = || {
            let runs = Arc::clone(&runs);
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(runs.fetch_add(1, Ordering::SeqCst))
            }
        };
        let both = tokio::join!(
            names.claim("a", operation(), conflict),
            names.claim("a", operation(), conflict)
        );
        assert_eq!((both.0.unwrap(), both.1.unwrap()), (0, 0));
        assert!(
            names.claim("a", operation(), conflict).await.is_err(),
            "known and taken"
        );
        names.release("a");
        assert_eq!(names.claim("a", operation(), conflict).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_operation_whose_caller_left_is_found_by_the_retry() {
        let names = Reservations::<u32>::default();
        let slow = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(7)
        };
        let abandoned =
            tokio::time::timeout(Duration::from_millis(1), names.claim("a", slow, conflict)).await;
        assert!(abandoned.is_err());
        tokio::time::sleep(Duration::from_millis(60)).await;
        let retry = names.claim("a", async { Ok(8) }, conflict).await.unwrap();
        assert_eq!(retry, 7);
    }

    #[tokio::test]
    async fn a_name_found_at_the_start_is_told_once_unless_it_was() {
        let names = Reservations::<u32>::default();
        names.adopt("a".into(), 1, false);
        names.adopt("b".into(), 2, true);
        names.adopt("c".into(), 3, false);
        names.is_known("c");
        let claim = |key: &'static str| names.claim(key, async { Ok(9) }, conflict);
        assert_eq!(claim("a").await.unwrap(), 1);
        assert!(claim("a").await.is_err());
        assert!(claim("b").await.is_err());
        assert!(claim("c").await.is_err());
    }

    #[tokio::test]
    async fn a_failed_operation_frees_its_name() {
        let names = Reservations::<u32>::default();
        let failing = async { Err(Error::PodNotFound("x".into())) };
        assert!(names.claim("a", failing, conflict).await.is_err());
        assert_eq!(
            names.claim("a", async { Ok(1) }, conflict).await.unwrap(),
            1
        );
    }
}
