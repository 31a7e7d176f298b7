//! The one module that talks to sled. Every call is made under `catch_unwind`: the engine has
//! hundreds of unwraps, and one bad page must not take the process with it unnoticed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sled::transaction::{ConflictableTransactionError, Transactional};

use crate::Error;
use crate::disk::Disk;
use crate::schema::TABLES;

/// A key and a value as they are stored.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);
/// One write: table, key, and the value that is to be there.
pub(crate) type Write = ((usize, Vec<u8>), Option<Vec<u8>>);
/// What one group writes: `None` removes. One entry per key, whatever order the batches had.
pub(crate) type Writes = BTreeMap<(usize, Vec<u8>), Option<Vec<u8>>>;

pub(crate) struct Engine {
    // Dropped before the database, or their last drop would do the engine's work outside `drop`.
    trees: Vec<sled::Tree>,
    db: Option<sled::Db>,
    /// Our own descriptor of the database file: `fdatasync` concerns the file, whoever wrote it.
    file: File,
    path: PathBuf,
    disk: Disk,
}

impl Engine {
    /// Opens or creates the database in `dir`. The caller holds the store's lock.
    ///
    /// `lock_wait` bounds the wait for the engine's own lock, which a process that is being killed
    /// gives up a little after ours.
    pub(crate) fn open(
        dir: &Path,
        cache: u64,
        lock_wait: Duration,
        disk: Disk,
    ) -> Result<Self, Error> {
        let is_new = !dir.join("db").exists();
        fs::create_dir_all(dir).map_err(io("create directory", dir))?;
        remove_half_made_snapshots(dir)?;
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache)
            .flush_every_ms(None);
        let db = open_waiting(&config, dir, lock_wait)?;
        let trees = TABLES
            .iter()
            .map(|name| guard("open table", || db.open_tree(name)))
            .collect::<Result<Vec<_>, _>>()?;
        let path = dir.join("db");
        let file = File::open(&path).map_err(io("open", &path))?;
        let engine = Self {
            trees,
            db: Some(db),
            file,
            path,
            disk,
        };
        engine.sync()?;
        if is_new {
            sync_everything_in(dir, &engine.disk)?;
        }
        Ok(engine)
    }

    pub(crate) fn get(&self, table: usize, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let found = guard("read", || self.trees[table].get(key))?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// At most `limit` entries behind `after`, in the order of the keys' bytes.
    pub(crate) fn page(
        &self,
        table: usize,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        guard("scan", || {
            self.trees[table]
                .range::<&[u8], _>((start, Bound::Unbounded))
                .take(limit)
                .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect()
        })
    }

    /// Every key and value of a table, in the order of the keys' bytes.
    pub(crate) fn scan(&self, table: usize) -> Result<Vec<Entry>, Error> {
        guard("scan", || {
            self.trees[table]
                .iter()
                .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect()
        })
    }

    /// Applies a group in one transaction. It is in the file after [`Engine::sync`].
    pub(crate) fn apply(&self, writes: &Writes) -> Result<(), Error> {
        let mut batches: BTreeMap<usize, sled::Batch> = BTreeMap::new();
        for ((table, key), value) in writes {
            let batch = batches.entry(*table).or_default();
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        let touched: Vec<&sled::Tree> = batches.keys().map(|table| &self.trees[*table]).collect();
        guard("commit", || {
            let outcome = touched[..].transaction(|views| {
                for (view, batch) in views.iter().zip(batches.values()) {
                    view.apply_batch(batch)?;
                }
                Ok::<(), ConflictableTransactionError<()>>(())
            });
            match outcome {
                Ok(()) => Ok(()),
                Err(sled::transaction::TransactionError::Storage(error)) => Err(error),
                Err(sled::transaction::TransactionError::Abort(())) => Err(
                    sled::Error::ReportableBug("the transaction was aborted".to_owned()),
                ),
            }
        })
    }

    /// Writes what is buffered to the file, and the file to the disk.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        if let Some(db) = &self.db {
            guard("flush", || db.flush())?;
        }
        self.disk
            .sync(&self.file)
            .map_err(io(crate::error::SYNC, &self.path))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let (trees, db) = (std::mem::take(&mut self.trees), self.db.take());
        let closed = catch_unwind(AssertUnwindSafe(move || {
            drop(trees);
            drop(db);
        }));
        if closed.is_err() {
            tracing::error!("the metadata engine panicked while closing");
        }
    }
}

/// Calls the engine; a panic becomes an error like any other.
fn guard<T>(operation: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::Engine {
            operation,
            detail: error.to_string(),
        }),
        Err(panic) => Err(Error::Engine {
            operation,
            detail: panic_text(&*panic),
        }),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "panicked: {}",
        text.unwrap_or_else(|| "no message".to_owned())
    )
}

fn open_waiting(config: &sled::Config, dir: &Path, wait: Duration) -> Result<sled::Db, Error> {
    let deadline = Instant::now() + wait;
    loop {
        let detail = match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            // The engine tells its lock from other I/O errors by words alone.
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("acquire lock") => {
                if Instant::now() >= deadline {
                    return Err(Error::Locked {
                        dir: dir.to_owned(),
                        pid: None,
                    });
                }
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            Ok(Err(sled::Error::Io(source))) => return Err(io("open", dir)(source)),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(&*panic),
        };
        return Err(Error::Corrupt {
            dir: dir.to_owned(),
            detail,
        });
    }
}

/// A crash while the engine writes its snapshot leaves a file that makes every later open fail.
/// It is never needed: the database file has everything.
fn remove_half_made_snapshots(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let entry = entry.map_err(io("list", dir))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            let path = entry.path();
            fs::remove_file(&path).map_err(io("remove", &path))?;
            tracing::warn!(path = %path.display(), "removed a snapshot that a crash left half made");
        }
    }
    Ok(())
}

/// The engine syncs neither its configuration nor the directories that it makes.
fn sync_everything_in(dir: &Path, disk: &Disk) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let path = entry.map_err(io("list", dir))?.path();
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(io("sync", &path))?;
    }
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        disk.sync_dir(dir).map_err(io("sync directory", dir))?;
    }
    Ok(())
}

/// Names the operation and the path of an I/O error.
pub(crate) fn io<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl Fn(std::io::Error) -> Error + 'a {
    move |source| Error::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}
