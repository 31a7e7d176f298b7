//! Present pods or containers by id, found by any unambiguous prefix.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

/// Several ids start with what was given.
#[derive(Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// A concurrent ordered map whose readers never wait for I/O: the lock covers map operations only.
pub struct Index<T> {
    entries: RwLock<BTreeMap<String, Arc<T>>>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self {
            entries: RwLock::default(),
        }
    }
}

impl<T> Index<T> {
    pub fn insert(&self, id: &str, entry: Arc<T>) {
        self.entries.write().insert(id.to_owned(), entry);
    }

    pub fn remove(&self, id: &str) {
        self.entries.write().remove(id);
    }

    pub fn all(&self) -> Vec<Arc<T>> {
        self.entries.read().values().cloned().collect()
    }

    /// The entry whose id is `prefix` or, alone, starts with it.
    pub fn find(&self, prefix: &str) -> Result<Option<Arc<T>>, Ambiguous> {
        if prefix.is_empty() {
            return Ok(None);
        }
        let entries = self.entries.read();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let mut matching = entries
            .range::<str, _>(from)
            .take_while(|(id, _)| id.starts_with(prefix));
        match (matching.next(), matching.next()) {
            (Some((id, _)), Some(_)) if id != prefix => Err(Ambiguous),
            (Some((_, entry)), _) => Ok(Some(Arc::clone(entry))),
            (None, _) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_finds_what_it_alone_names() {
        let index = Index::default();
        for id in ["abc1", "abd2", "b"] {
            index.insert(id, Arc::new(id));
        }
        assert_eq!(index.find("abc").unwrap().as_deref(), Some(&"abc1"));
        assert_eq!(index.find("ab"), Err(Ambiguous));
        assert_eq!(index.find("").unwrap(), None);
        assert_eq!(index.find("x").unwrap(), None);
        index.insert("abc", Arc::new("abc"));
        assert_eq!(index.find("abc").unwrap().as_deref(), Some(&"abc"));
    }
}
