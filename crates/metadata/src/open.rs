use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use crate::commit::{self, Core, OnFatal, Writer};
use crate::disk::Disk;
use crate::engine::{Engine, io};
use crate::exporter::Exporter;
use crate::exports::Exports;
use crate::journal::{self, Journal};
use crate::meters::Meters;
use crate::migrate::Plan;
use crate::restore::{self, Place};
use crate::schema::{self, STORE, TABLES};
use crate::space::Space;
use crate::store::Parts;
use crate::value::{SideFiles, side_file_of};
use crate::{Error, Store};

const CACHE: u64 = 32 << 20;
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Between two exports of a store that changes.
const EXPORT_EVERY: Duration = Duration::from_secs(300);

/// How to open a store.
pub struct Options {
    dir: PathBuf,
    cache: u64,
    lock_wait: Duration,
    on_fatal: Option<OnFatal>,
    plan: Plan,
    export_every: Duration,
    pub(crate) disk: Disk,
}

impl Options {
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            cache: CACHE,
            lock_wait: LOCK_WAIT,
            on_fatal: None,
            plan: Plan {
                version: schema::VERSION,
                migrations: schema::MIGRATIONS,
            },
            export_every: EXPORT_EVERY,
            disk: Disk::default(),
        }
    }

    /// Bytes of memory that the engine may keep pages in; 32 MiB by default.
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.cache = bytes;
        self
    }

    /// How long to wait for another process to give up the store; 5 s by default.
    pub fn lock_wait(mut self, wait: Duration) -> Self {
        self.lock_wait = wait;
        self
    }

    /// How often the store writes an export of itself while it changes; five minutes by default.
    pub fn export_every(mut self, every: Duration) -> Self {
        self.export_every = every;
        self
    }

    /// Called once, from whatever thread noticed, when the store can no longer promise anything.
    /// The process should exit and open the store anew.
    pub fn on_fatal(mut self, report: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.on_fatal = Some(Box::new(report));
        self
    }

    /// Opens or creates the store.
    ///
    /// A database that cannot be read is set aside and rebuilt from the last export and the
    /// journal: see [`Store::restored`].
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::SchemaTooNew`], or I/O.
    pub fn open(self) -> Result<Store, Error> {
        let lock = self.lock()?;
        let place = self.place()?;
        let (engine, restored) = restore::open_or_rebuild(&place)?;
        sweep(&engine, &place.side_files)?;
        let sequence = commit::stored_sequence(&engine)?;
        let journaled = place.journal.count()? * journal::SEGMENT_SIZE;
        let core = Arc::new(Core {
            engine,
            side_files: place.side_files,
            sequence: AtomicU64::new(sequence),
            journaled: AtomicU64::new(journaled),
            poison: OnceLock::new(),
            on_fatal: self.on_fatal,
            space: Space::new(&self.dir),
            meters: Meters::default(),
        });
        let (orders, queue) = mpsc::channel();
        let writer = Writer {
            core: Arc::clone(&core),
            journal: place.journal,
            checkpoint: sequence,
            appended: 0,
            obsolete: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("metadata-commit".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(io("start the commit thread for", &self.dir))?;
        let exporter = Exporter::start(
            Arc::clone(&core),
            place.exports,
            self.plan.version,
            orders.clone(),
            self.export_every,
        )
        .map_err(io("start the export thread for", &self.dir))?;
        Ok(Store::assemble(Parts {
            core,
            orders,
            thread,
            exporter,
            lock,
            restored,
            schema: self.plan.version,
        }))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// That records are migrated to.
    pub(crate) fn schema(&self) -> u32 {
        self.plan.version
    }

    /// Takes the store's own lock, before anything of the engine is touched.
    pub(crate) fn lock(&self) -> Result<File, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(io("create directory", &self.dir))?;
        lock(&self.dir, self.lock_wait)
    }

    /// What lies beside the database.
    pub(crate) fn place(&self) -> Result<Place, Error> {
        let values = self.dir.join("values");
        fs::create_dir_all(&values).map_err(io("create directory", &values))?;
        let disk = &self.disk;
        Ok(Place {
            dir: self.dir.clone(),
            cache: self.cache,
            lock_wait: self.lock_wait,
            plan: self.plan,
            side_files: SideFiles::new(values, disk.clone()),
            journal: Journal::open(self.dir.join("journal"), self.plan.version, disk.clone())?,
            exports: Exports::open(self.dir.join("exports"), disk.clone())?,
            disk: disk.clone(),
        })
    }
}

fn lock(dir: &Path, wait: Duration) -> Result<File, Error> {
    let path = dir.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io("open", &path))?;
    let deadline = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                return Err(Error::Locked {
                    dir: dir.to_owned(),
                    pid: holder.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io("lock", &path)(source)),
        }
    }
    // The pid only serves the message above; a full disk must not keep the store closed.
    let noted = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = noted {
        tracing::debug!(%error, "the pid was not written to the lock file");
    }
    Ok(file)
}

/// Removes the side files that a crash left without a record.
pub(crate) fn sweep(engine: &Engine, side_files: &SideFiles) -> Result<(), Error> {
    let mut used = HashSet::new();
    for table in (0..TABLES.len()).filter(|table| *table != STORE) {
        for (_, raw) in engine.scan(table)? {
            used.extend(side_file_of(&raw).map(str::to_owned));
        }
    }
    let removed = side_files.sweep(|name| used.contains(name))?;
    if removed > 0 {
        tracing::info!(removed, "removed record files that nothing refers to");
    }
    Ok(())
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
