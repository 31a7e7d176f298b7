//! What happens to pods and containers, told to whoever listens.
//!
//! An event carries the pod and its containers as they are right after it. Events are stamped and
//! queued under one lock, which nobody holds for longer than that: their times strictly increase,
//! and every subscriber sees them in that order. Each has a queue of its own. One that falls behind
//! by a whole queue is let go with [`Lagged`], and has to look at everything anew; the others and
//! the tasks that tell do not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::record::{self, ContainerRecord, Nanos, PodRecord};

/// Events that may wait for one subscriber: a node full of pods that all start at once.
const QUEUE: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Created,
    Started,
    Stopped,
    Deleted,
}

/// Something that happened to a container or to a pod itself.
#[derive(Debug, Clone)]
pub struct Event {
    pub kind: EventKind,
    /// Of the container or of the pod.
    pub id: String,
    /// Later than that of every event before it.
    pub at: Nanos,
    pub pod: Arc<PodRecord>,
    pub containers: Vec<Arc<ContainerRecord>>,
}

/// The subscriber was too slow, and events are missing from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagged {
    /// How many events its queue held.
    pub queue: usize,
}

#[derive(Default)]
pub(crate) struct Events {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: Nanos,
    subscribers: Vec<Subscriber>,
    closed: bool,
}

struct Subscriber {
    queue: mpsc::Sender<Arc<Event>>,
    lagged: Arc<AtomicBool>,
}

/// The receiving end of one subscriber.
#[derive(Debug)]
pub struct Subscription {
    queue: mpsc::Receiver<Arc<Event>>,
    lagged: Arc<AtomicBool>,
}

impl Subscription {
    /// The next event. `None` when the daemon ends.
    pub async fn next(&mut self) -> Option<Result<Arc<Event>, Lagged>> {
        match self.queue.recv().await {
            Some(event) => Some(Ok(event)),
            None => self
                .lagged
                .swap(false, Ordering::AcqRel)
                .then_some(Err(Lagged { queue: QUEUE })),
        }
    }
}

impl Events {
    /// From now on.
    pub fn subscribe(&self) -> Subscription {
        let (sender, queue) = mpsc::channel(QUEUE);
        let lagged = Arc::new(AtomicBool::new(false));
        let mut inner = self.inner.lock();
        inner.subscribers.retain(|one| !one.queue.is_closed());
        if !inner.closed {
            inner.subscribers.push(Subscriber {
                queue: sender,
                lagged: Arc::clone(&lagged),
            });
        }
        Subscription { queue, lagged }
    }

    /// Tells what happened. `seen` looks at the pod under the lock, so that a later event never
    /// shows an older state; it must not wait for anything.
    pub fn tell(
        &self,
        kind: EventKind,
        id: &str,
        seen: impl FnOnce() -> Option<(Arc<PodRecord>, Vec<Arc<ContainerRecord>>)>,
    ) {
        let mut inner = self.inner.lock();
        inner.last = record::now().max(inner.last + 1);
        if inner.subscribers.is_empty() {
            return;
        }
        let Some((pod, containers)) = seen() else {
            return;
        };
        let event = Arc::new(Event {
            kind,
            id: id.to_owned(),
            at: inner.last,
            pod,
            containers,
        });
        inner.subscribers.retain(|subscriber| {
            match subscriber.queue.try_send(Arc::clone(&event)) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    tracing::warn!(queue = QUEUE, "a subscriber of events is too slow: let go");
                    subscriber.lagged.store(true, Ordering::Release);
                    false
                }
            }
        });
    }

    /// A time for what is looked at after this call: no event before it is missing from that, and
    /// events that may be are later.
    pub fn stamp(&self) -> Nanos {
        let mut inner = self.inner.lock();
        inner.last = record::now().max(inner.last);
        inner.last
    }

    /// Ends all subscriptions, also those to come.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.subscribers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Option<(Arc<PodRecord>, Vec<Arc<ContainerRecord>>)> {
        let record = serde_json::json!({
            "id": "a".repeat(64), "state": "ready", "created_at": 1, "ips": [],
            "cgroup_parent": "/p", "network_held": false, "init_pid": null,
            "request": crate::request::PodRequest::default(),
        });
        Some((
            Arc::new(serde_json::from_value(record).unwrap()),
            Vec::new(),
        ))
    }

    #[tokio::test]
    async fn every_subscriber_sees_the_same_events_in_the_order_of_their_times() {
        let events = Arc::new(Events::default());
        let mut subscriptions = [events.subscribe(), events.subscribe()];
        let tellers = (0..4).map(|teller| {
            let events = Arc::clone(&events);
            std::thread::spawn(move || {
                for number in 0..100 {
                    events.tell(EventKind::Created, &format!("{teller}-{number}"), pod);
                }
            })
        });
        tellers
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|teller| teller.join().unwrap());
        events.close();
        let mut seen = Vec::new();
        for subscription in &mut subscriptions {
            let mut list = Vec::new();
            while let Some(event) = subscription.next().await {
                let event = event.unwrap();
                list.push((event.at, event.id.clone()));
            }
            assert!(list.windows(2).all(|pair| pair[0].0 < pair[1].0));
            seen.push(list);
        }
        assert_eq!(seen[0].len(), 400);
        assert_eq!(seen[0], seen[1]);
        assert!(events.subscribe().next().await.is_none(), "it has ended");
    }

    #[tokio::test]
    async fn who_does_not_listen_is_told_that_something_is_missing_and_others_miss_nothing() {
        let events = Events::default();
        let (mut idle, mut busy) = (events.subscribe(), events.subscribe());
        for number in 0..=QUEUE {
            events.tell(EventKind::Stopped, &number.to_string(), pod);
            assert_eq!(busy.next().await.unwrap().unwrap().id, number.to_string());
        }
        for number in 0..QUEUE {
            assert_eq!(idle.next().await.unwrap().unwrap().id, number.to_string());
        }
        assert_eq!(
            idle.next().await.unwrap().unwrap_err(),
            Lagged { queue: QUEUE }
        );
        assert!(idle.next().await.is_none());
        events.tell(EventKind::Deleted, "last", pod);
        assert_eq!(busy.next().await.unwrap().unwrap().id, "last");
    }

    #[test]
    fn a_status_is_never_stamped_earlier_than_an_event_that_it_shows() {
        let events = Events::default();
        let _listener = events.subscribe();
        events.inner.lock().last = record::now() + 1_000_000_000;
        events.tell(EventKind::Created, "a", pod);
        let last = events.inner.lock().last;
        assert_eq!(events.stamp(), last);
        events.tell(EventKind::Created, "b", pod);
        assert!(events.inner.lock().last > last);
    }
}
