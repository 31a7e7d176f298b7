//! One piece of work for many waiters.
//!
//! ```text
//! join ─► [running] ─ done ─► every waiter gets the result
//!            └─ last waiter gone ─► cancelled; the next join starts anew
//! ```

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Flights by key. The work runs in a task of its own, so that no waiter's end disturbs it. Each
/// flight has a `W` that its work and its waiters share.
pub(crate) struct Flights<K, T, W = ()>(Arc<Mutex<HashMap<K, Flight<T, W>>>>);

struct Flight<T, W> {
    waiters: usize,
    watch: W,
    cancel: CancellationToken,
    result: watch::Receiver<Option<T>>,
    /// Tells this flight from a later one under the same key.
    number: u64,
}

impl<K, T, W> Default for Flights<K, T, W> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T, W> Flights<K, T, W>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
    W: Clone + Default + Send + 'static,
{
    /// Waits for the flight of `key`, which `start` begins if there is none. Dropping the future
    /// ends the wait; when nobody waits any more, the token that `start` was given is cancelled.
    /// `None` if the work panicked.
    #[cfg(test)]
    pub(crate) async fn join<F, R>(&self, key: K, start: F) -> Option<T>
    where
        F: FnOnce(CancellationToken, W) -> R,
        R: Future<Output = T> + Send + 'static,
    {
        self.join_watched(key, start).1.await
    }

    /// Like [`Flights::join`], with what the flight's waiters share. The seat is taken at once.
    pub(crate) fn join_watched<F, R>(
        &self,
        key: K,
        start: F,
    ) -> (W, impl Future<Output = Option<T>> + use<K, T, W, F, R>)
    where
        F: FnOnce(CancellationToken, W) -> R,
        R: Future<Output = T> + Send + 'static,
    {
        let (mut result, seat) = self.board(key, start);
        let watch = seat.watch.clone();
        let landed = async move {
            let _seat = seat;
            let landed = result.wait_for(Option::is_some).await.ok()?;
            landed.clone()
        };
        (watch, landed)
    }

    fn board<F, R>(&self, key: K, start: F) -> (watch::Receiver<Option<T>>, Seat<K, T, W>)
    where
        F: FnOnce(CancellationToken, W) -> R,
        R: Future<Output = T> + Send + 'static,
    {
        let mut flights = self.0.lock();
        let flight = match flights.get_mut(&key) {
            Some(flight) => flight,
            None => {
                let (announce, result) = watch::channel(None);
                let cancel = CancellationToken::new();
                let number = next_number();
                let watch = W::default();
                let work = start(cancel.clone(), watch.clone());
                let landing = Landing {
                    key: key.clone(),
                    number,
                    flights: Arc::clone(&self.0),
                };
                tokio::spawn(async move {
                    let result = work.await;
                    // Forgotten first: who joins after the result is known starts anew.
                    drop(landing);
                    announce.send_replace(Some(result));
                });
                let flight = Flight {
                    waiters: 0,
                    watch,
                    cancel,
                    result,
                    number,
                };
                flights.entry(key.clone()).or_insert(flight)
            }
        };
        flight.waiters += 1;
        let seat = Seat {
            key,
            number: flight.number,
            watch: flight.watch.clone(),
            flights: Arc::clone(&self.0),
        };
        (flight.result.clone(), seat)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

fn next_number() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One waiter's place in a flight.
struct Seat<K: Eq + Hash, T, W> {
    key: K,
    number: u64,
    watch: W,
    flights: Arc<Mutex<HashMap<K, Flight<T, W>>>>,
}

impl<K: Eq + Hash, T, W> Drop for Seat<K, T, W> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        let Some(flight) = flights
            .get_mut(&self.key)
            .filter(|f| f.number == self.number)
        else {
            return;
        };
        flight.waiters -= 1;
        if flight.waiters == 0 {
            flight.cancel.cancel();
            flights.remove(&self.key);
        }
    }
}

/// Forgets the flight when its work ends, however it ends.
struct Landing<K: Eq + Hash, T, W> {
    key: K,
    number: u64,
    flights: Arc<Mutex<HashMap<K, Flight<T, W>>>>,
}

impl<K: Eq + Hash, T, W> Drop for Landing<K, T, W> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        if flights
            .get(&self.key)
            .is_some_and(|flight| flight.number == self.number)
        {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn waiters_share_the_work_and_one_that_leaves_hurts_nobody() {
        let flights = Arc::new(Flights::<u8, u8>::default());
        let (runs, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let join = || {
            let (flights, runs, go) = (Arc::clone(&flights), Arc::clone(&runs), Arc::clone(&go));
            tokio::spawn(async move {
                let work = |_, ()| async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    go.notified().await;
                    7
                };
                flights.join(1, work).await
            })
        };
        let waiters: Vec<_> = (0..10).map(|_| join()).collect();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        waiters[0].abort();
        go.notify_one();
        for waiter in waiters.into_iter().skip(1) {
            assert_eq!(waiter.await.unwrap(), Some(7));
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn the_last_waiter_that_leaves_cancels_and_the_next_starts_anew() {
        let flights = Flights::<u8, u8>::default();
        let (stopped, was_stopped) = tokio::sync::oneshot::channel();
        let mut only = Box::pin(flights.join(1, |cancel, ()| async move {
            cancel.cancelled().await;
            let _ = stopped.send(());
            1
        }));
        assert!(futures::poll!(&mut only).is_pending());
        drop(only);
        assert_eq!(flights.join(1, |_, ()| async { 2 }).await, Some(2));
        was_stopped.await.unwrap();
    }

    #[tokio::test]
    async fn work_that_panics_ends_the_wait() {
        let flights = Flights::<u8, u8>::default();
        assert_eq!(
            flights
                .join(1, |_, ()| async { panic!("expected by the test") })
                .await,
            None
        );
        assert_eq!(flights.len(), 0);
    }
}
