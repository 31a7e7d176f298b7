//! Keeps pulls and the collector from working on the same thing.
//!
//! A pull holds what it needs before it looks whether it is there; the collector dooms what nobody
//! holds before it looks whether a record needs it. Whoever comes second waits (a pull) or leaves
//! it alone (the collector), so that neither acts on what the other is about to change.

use std::collections::HashMap;
use std::sync::Arc;

use berth_names::{ChainId, Digest};
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    Blob(Digest),
    Layer(ChainId),
}

enum State {
    Held(usize),
    Doomed,
}

#[derive(Clone, Default)]
pub(crate) struct Holds(Arc<Shared>);

#[derive(Default)]
struct Shared {
    items: Mutex<HashMap<Item, State>>,
    pardoned: Notify,
}

/// Keeps content from being collected until it is dropped.
#[must_use = "content is kept only as long as the hold"]
pub struct Hold {
    items: Vec<Item>,
    holds: Arc<Shared>,
}

/// The collector's claim on an item that nobody held.
pub(crate) struct Doom {
    pub(crate) item: Item,
    holds: Arc<Shared>,
}

impl Holds {
    /// Holds everything in `items`, after the collector has let go of it. Cancel-safe.
    pub(crate) async fn hold(&self, items: Vec<Item>) -> Hold {
        loop {
            let pardoned = self.0.pardoned.notified();
            tokio::pin!(pardoned);
            // Registered before the look, so that a pardon in between is not missed.
            pardoned.as_mut().enable();
            if self.try_hold(&items) {
                return Hold {
                    items,
                    holds: Arc::clone(&self.0),
                };
            }
            pardoned.await;
        }
    }

    fn try_hold(&self, items: &[Item]) -> bool {
        let mut states = self.0.items.lock();
        if items
            .iter()
            .any(|item| matches!(states.get(item), Some(State::Doomed)))
        {
            return false;
        }
        for item in items {
            match states.entry(item.clone()).or_insert(State::Held(0)) {
                State::Held(count) => *count += 1,
                State::Doomed => {}
            }
        }
        true
    }

    /// Claims an item for removal; `None` if it is held.
    pub(crate) fn doom(&self, item: Item) -> Option<Doom> {
        let mut states = self.0.items.lock();
        if states.contains_key(&item) {
            return None;
        }
        states.insert(item.clone(), State::Doomed);
        Some(Doom {
            item,
            holds: Arc::clone(&self.0),
        })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut states = self.holds.items.lock();
        for item in &self.items {
            if let Some(State::Held(count)) = states.get_mut(item) {
                *count -= 1;
                if *count == 0 {
                    states.remove(item);
                }
            }
        }
    }
}

impl Drop for Doom {
    fn drop(&mut self) {
        self.holds.items.lock().remove(&self.item);
        self.holds.pardoned.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(text: &str) -> Item {
        Item::Blob(Digest::sha256_of(text.as_bytes()))
    }

    #[tokio::test]
    async fn what_is_held_cannot_be_doomed_and_what_is_doomed_is_waited_for() {
        let holds = Holds::default();
        let hold = holds.hold(vec![blob("a"), blob("a"), blob("b")]).await;
        let again = holds.hold(vec![blob("a")]).await;
        drop(hold);
        assert!(
            holds.doom(blob("a")).is_none(),
            "the second hold still counts"
        );
        let doomed = holds.doom(blob("b")).unwrap();
        let mut waiting = Box::pin(holds.hold(vec![blob("a"), blob("b")]));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(doomed);
        drop(waiting.await);
        drop(again);
        assert!(holds.0.items.lock().is_empty());
    }
}
