use serde::Serialize;

use crate::table::{Key, Table};
use crate::{Error, schema};

/// One change to one record, typed no longer.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Put {
        table: usize,
        key: String,
        json: Vec<u8>,
    },
    Remove {
        table: usize,
        key: String,
    },
    /// Moves a value out of the way if it still is what the reader found.
    SetAside {
        table: usize,
        key: Vec<u8>,
        found: Vec<u8>,
    },
}

/// Changes over any tables that become visible and durable together or not at all.
///
/// They apply in the order of the calls; the last one to a key wins.
#[derive(Debug, Clone, Default)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    pub(crate) changes: Vec<Change>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a record.
    ///
    /// # Errors
    /// [`Error::Encode`] if the record cannot be JSON (a map with keys that are no strings).
    pub fn put<K: Key, V: Serialize>(
        &mut self,
        table: Table<K, V>,
        key: &K,
        record: &V,
    ) -> Result<&mut Self, Error> {
        let json = serde_json::to_vec(record).map_err(|source| Error::Encode {
            table: table.name(),
            key: key.as_text().to_owned(),
            source,
        })?;
        let key = key.as_text().to_owned();
        self.changes.push(Change::Put {
            table: table.index(),
            key,
            json,
        });
        Ok(self)
    }

    /// Removes a record; removing one that does not exist is no error.
    pub fn remove<K: Key, V>(&mut self, table: Table<K, V>, key: &K) -> &mut Self {
        self.changes.push(Change::Remove {
            table: table.index(),
            key: key.as_text().to_owned(),
        });
        self
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl Change {
    /// Name of the table, for messages.
    pub(crate) fn table_name(table: usize) -> &'static str {
        schema::TABLES
            .get(table)
            .copied()
            .unwrap_or("unknown table")
    }
}
