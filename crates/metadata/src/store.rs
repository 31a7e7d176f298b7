use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use futures::channel::oneshot;
use serde::de::DeserializeOwned;

use crate::batch::{Batch, Change};
use crate::commit::{Commit, Core, Order, Request};
use crate::export::{self, Summary};
use crate::exporter::Exporter;
use crate::meters::Meters;
use crate::restore::Restored;
use crate::schema::SET_ASIDE;
use crate::table::{Key, Table};
use crate::value::Unreadable;
use crate::{Error, Options};

/// The open store; clones share it, and the last one to go closes it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    // These two are dropped first: the commit thread ends when nobody can ask it any more.
    exporter: Option<Exporter>,
    orders: Option<Mutex<Sender<Order>>>,
    thread: Option<JoinHandle<()>>,
    core: Arc<Core>,
    restored: Option<Restored>,
    schema: u32,
    // Dropped last: the engine is closed by then.
    _lock: std::fs::File,
}

/// What an open store is made of.
pub(crate) struct Parts {
    pub core: Arc<Core>,
    pub orders: Sender<Order>,
    pub thread: JoinHandle<()>,
    pub exporter: Exporter,
    pub lock: std::fs::File,
    pub restored: Option<Restored>,
    pub schema: u32,
}

/// What a scan found.
#[derive(Debug)]
pub struct Scan<K, V> {
    /// In the order of the keys.
    pub records: Vec<(K, V)>,
    /// What could not be read. Bad records have been moved out of the table; those whose file could
    /// not be read at the moment are still in it.
    pub set_aside: Vec<SetAside>,
}

/// A record that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    pub table: String,
    pub key: String,
    pub detail: String,
}

impl Store {
    /// Opens or creates the store in `dir` with the default [`Options`].
    ///
    /// # Errors
    /// See [`Options::open`].
    pub fn open(dir: impl AsRef<std::path::Path>) -> Result<Self, Error> {
        Options::new(dir.as_ref()).open()
    }

    pub(crate) fn assemble(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            exporter: Some(parts.exporter),
            orders: Some(Mutex::new(parts.orders)),
            thread: Some(parts.thread),
            core: parts.core,
            restored: parts.restored,
            schema: parts.schema,
            _lock: parts.lock,
        }))
    }

    /// What had to be done to the database when it was opened, if it was damaged.
    pub fn restored(&self) -> Option<&Restored> {
        self.0.restored.as_ref()
    }

    /// Writes every record as text, without holding up commits. The format is documented in
    /// `docs/metadata.md`; [`crate::Options::import`] reads it.
    ///
    /// # Errors
    /// [`Error::WriteExport`] where `out` fails; otherwise what makes the store unusable.
    pub fn export(&self, out: impl std::io::Write) -> Result<Summary, Error> {
        let core = &self.0.core;
        core.check()?;
        let sequence = || core.sequence.load(std::sync::atomic::Ordering::Acquire);
        export::write(&core.engine, &core.side_files, self.0.schema, sequence, out)
    }

    /// Reads one record. Reads come from memory or a short disk read; they never wait for commits.
    ///
    /// # Errors
    /// [`Error::Undecodable`] if the record is there but bad; it is set aside then.
    pub fn get<K: Key, V: DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, Error> {
        let core = &self.0.core;
        core.check()?;
        let text = key.as_text();
        let Some(raw) = self.raw(table.index(), text.as_bytes())? else {
            return Ok(None);
        };
        match self.load(table.index(), text.as_bytes(), raw) {
            Ok(record) => Ok(record),
            Err(Unreadable::Io(error)) => Err(error),
            Err(Unreadable::Bad(detail)) => Err(Error::Undecodable {
                table: table.name(),
                key: text.to_owned(),
                detail,
            }),
        }
    }

    /// Reads a whole table.
    ///
    /// # Errors
    /// Only what makes the whole store unusable; bad records are in [`Scan::set_aside`].
    pub fn scan<K: Key, V: DeserializeOwned>(
        &self,
        table: Table<K, V>,
    ) -> Result<Scan<K, V>, Error> {
        self.0.core.check()?;
        let entries = self.read(|core| core.engine.scan(table.index()))?;
        let mut scan = Scan {
            records: Vec::with_capacity(entries.len()),
            set_aside: Vec::new(),
        };
        for (key, raw) in entries {
            let decoded = match std::str::from_utf8(&key).ok().and_then(K::from_text) {
                Some(typed) => self
                    .load(table.index(), &key, raw)
                    .map(|record| record.map(|record| (typed, record))),
                None => {
                    let detail = "the key is malformed";
                    self.put_aside(table.index(), key.clone(), raw, detail);
                    Err(Unreadable::Bad(detail.to_owned()))
                }
            };
            let detail = match decoded {
                Ok(entry) => {
                    scan.records.extend(entry);
                    continue;
                }
                Err(Unreadable::Bad(detail)) => detail,
                Err(Unreadable::Io(error)) => chain(&error),
            };
            scan.set_aside.push(SetAside {
                table: table.name().to_owned(),
                key: String::from_utf8_lossy(&key).into_owned(),
                detail,
            });
        }
        Ok(scan)
    }

    /// Hands a batch to the commit thread. It will be committed even if the result is dropped.
    pub fn commit(&self, batch: Batch) -> Commit {
        let (done, outcome) = oneshot::channel();
        match self.send(Request {
            changes: batch.changes,
            done: Some(done),
        }) {
            Ok(()) => Commit::waiting(outcome),
            Err(error) => Commit::refused(error),
        }
    }

    /// Hands over a batch whose loss in a crash would do no harm. It is applied in order with the
    /// others, and synced with the next awaited batch or within 200 ms. Failures are logged.
    pub fn commit_lazily(&self, batch: Batch) {
        if let Err(error) = self.send(Request {
            changes: batch.changes,
            done: None,
        }) {
            tracing::error!(error = %chain(&error), "a lazy metadata batch was lost");
        }
    }

    /// Every record that was set aside, now or in earlier runs.
    pub fn set_aside(&self) -> Result<Vec<SetAside>, Error> {
        self.0.core.check()?;
        let entries = self.read(|core| core.engine.scan(SET_ASIDE))?;
        Ok(entries
            .into_iter()
            .map(|(name, raw)| {
                let name = String::from_utf8_lossy(&name).into_owned();
                let (table, key) = name.split_once('/').unwrap_or(("", &name));
                SetAside {
                    table: table.to_owned(),
                    key: key.to_owned(),
                    detail: format!("{} bytes kept as they were found", raw.len()),
                }
            })
            .collect())
    }

    /// What commits count about themselves.
    pub fn meters(&self) -> Meters {
        self.0.core.meters.clone()
    }

    /// The error that stopped the store, if one has.
    pub fn health(&self) -> Result<(), Error> {
        self.0.core.check()
    }

    fn send(&self, request: Request) -> Result<(), Error> {
        self.0.core.check()?;
        let orders = self.0.orders.as_ref().ok_or(Error::Closed)?;
        let orders = orders
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        orders
            .send(Order::Commit(request))
            .map_err(|_| Error::Closed)
    }

    /// A read that fails inside the engine shows that the engine is of no use any more.
    fn read<T>(&self, call: impl FnOnce(&Core) -> Result<T, Error>) -> Result<T, Error> {
        call(&self.0.core).map_err(|error| Error::Poisoned(self.0.core.poison(error)))
    }

    fn raw(&self, table: usize, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.read(|core| core.engine.get(table, key))
    }

    /// Decodes a value that was read, and puts it aside if it is bad. A commit that replaced the
    /// record since then may have removed its file; then the new value counts.
    fn load<V: DeserializeOwned>(
        &self,
        table: usize,
        key: &[u8],
        mut raw: Vec<u8>,
    ) -> Result<Option<V>, Unreadable> {
        loop {
            let detail = match self.decode(&raw) {
                Ok(record) => return Ok(Some(record)),
                Err(Unreadable::Bad(detail)) => detail,
                Err(unreadable) => return Err(unreadable),
            };
            match self.raw(table, key).map_err(Unreadable::Io)? {
                None => return Ok(None),
                Some(now) if now != raw => raw = now,
                Some(_) => {
                    self.put_aside(table, key.to_vec(), raw, &detail);
                    return Err(Unreadable::Bad(detail));
                }
            }
        }
    }

    fn decode<V: DeserializeOwned>(&self, raw: &[u8]) -> Result<V, Unreadable> {
        let json = self.0.core.side_files.read(raw)?;
        serde_json::from_slice(&json).map_err(|error| Unreadable::Bad(error.to_string()))
    }

    fn put_aside(&self, table: usize, key: Vec<u8>, found: Vec<u8>, detail: &str) {
        tracing::warn!(
            table = Change::table_name(table),
            key = %String::from_utf8_lossy(&key),
            detail,
            "a record cannot be read and is set aside"
        );
        let batch = Batch {
            changes: vec![Change::SetAside { table, key, found }],
        };
        self.commit_lazily(batch);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.exporter = None;
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metadata commit thread panicked");
        }
    }
}

/// An error with its sources, for logs.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
