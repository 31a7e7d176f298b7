use std::marker::PhantomData;

use berth_names::{ContainerId, Digest, SandboxId};

/// Names a table and the types of its keys and records.
///
/// The tables are the constants of [`crate::schema`]; there is no way to make another.
pub struct Table<K, V> {
    index: usize,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Table<K, V> {
    pub(crate) const fn at(index: usize) -> Self {
        Self {
            index,
            types: PhantomData,
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Name of the table on disk.
    pub fn name(&self) -> &'static str {
        crate::schema::TABLES[self.index]
    }
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Table<K, V> {}

impl<K, V> std::fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a record is found by. Keys are stored as text, ordered by its bytes.
pub trait Key: Sized {
    fn as_text(&self) -> &str;
    /// `None` if `text` is not such a key: the record is set aside.
    fn from_text(text: &str) -> Option<Self>;
}

impl Key for String {
    fn as_text(&self) -> &str {
        self
    }
    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

macro_rules! parsed_key {
    ($($name:ty),*) => {$(
        impl Key for $name {
            fn as_text(&self) -> &str {
                self.as_str()
            }
            fn from_text(text: &str) -> Option<Self> {
                Self::parse(text).ok()
            }
        }
    )*};
}

parsed_key!(Digest, SandboxId, ContainerId);
