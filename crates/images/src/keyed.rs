//! One lock per key, made when it is needed and forgotten when it is not.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Map<K> = Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>;

pub(crate) struct KeyedLocks<K>(Map<K>);

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// The lock of one key. Dropping it lets the next one in.
pub(crate) struct KeyedGuard<K: Eq + Hash> {
    key: K,
    map: Map<K>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K: Eq + Hash + Clone> KeyedLocks<K> {
    /// Waits for the key, in order of arrival. Cancel-safe.
    pub(crate) async fn lock(&self, key: K) -> KeyedGuard<K> {
        let lock = Arc::clone(self.0.lock().entry(key.clone()).or_default());
        // Made before the wait: if that is given up, the entry goes as it does after use.
        let mut keyed = KeyedGuard {
            key,
            map: Arc::clone(&self.0),
            guard: None,
        };
        keyed.guard = Some(lock.lock_owned().await);
        keyed
    }
}

impl<K: Eq + Hash> Drop for KeyedGuard<K> {
    fn drop(&mut self) {
        let mut map = self.map.lock();
        self.guard = None;
        // A waiter owns the lock too, and became an owner under the map's lock.
        if map
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            map.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_key_excludes_and_leaves_nothing_behind() {
        let locks = KeyedLocks::default();
        let first = locks.lock("a").await;
        let other = locks.lock("b").await;
        let mut second = Box::pin(locks.lock("a"));
        let mut given_up = Box::pin(locks.lock("a"));
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(given_up);
        drop(first);
        let second = second.await;
        drop((second, other));
        assert!(locks.0.lock().is_empty());
    }
}
