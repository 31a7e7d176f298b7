use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use crate::commit::{self, Core, OnFatal};
use crate::engine::{Engine, Write, Writes, io};
use crate::schema::{self, Migration, OldRecords, Rewrite, STORE, TABLES};
use crate::space::Space;
use crate::value::{INLINE_LIMIT, SideFiles, inline, side_file_of};
use crate::{Error, Store};

const CACHE: u64 = 32 << 20;
const LOCK_WAIT: Duration = Duration::from_secs(5);
const SCHEMA: &[u8] = b"schema";

/// How to open a store.
pub struct Options {
    dir: PathBuf,
    cache: u64,
    lock_wait: Duration,
    on_fatal: Option<OnFatal>,
    version: u32,
    migrations: &'static [Migration],
}

impl Options {
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            cache: CACHE,
            lock_wait: LOCK_WAIT,
            on_fatal: None,
            version: schema::VERSION,
            migrations: schema::MIGRATIONS,
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

    /// Called once, from whatever thread noticed, when the store can no longer promise anything.
    /// The process should exit and open the store anew.
    pub fn on_fatal(mut self, report: impl Fn(&Error) + Send + Sync + 'static) -> Self {
        self.on_fatal = Some(Box::new(report));
        self
    }

    /// Opens or creates the store.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Corrupt`], [`Error::SchemaTooNew`], or I/O.
    pub fn open(self) -> Result<Store, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(io("create directory", &self.dir))?;
        let lock = lock(&self.dir, self.lock_wait)?;
        let values = self.dir.join("values");
        fs::create_dir_all(&values).map_err(io("create directory", &values))?;
        let engine = Engine::open(&self.dir.join("sled"), self.cache, self.lock_wait)?;
        let side_files = SideFiles::new(values);
        migrate(&self, &engine, &side_files)?;
        sweep(&engine, &side_files)?;
        let sequence = commit::stored_sequence(&engine)?;
        let core = Arc::new(Core {
            engine,
            side_files,
            poison: OnceLock::new(),
            on_fatal: self.on_fatal,
            space: Space::new(&self.dir),
        });
        let (requests, queue) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("metadata-commit".to_owned())
            .spawn({
                let core = Arc::clone(&core);
                move || commit::run(&core, &queue, sequence)
            })
            .map_err(io("start the commit thread for", &self.dir))?;
        Ok(Store::assemble(core, requests, thread, lock))
    }
}

/// Takes the store's own lock, before anything of the engine is touched.
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

/// Brings an older database to the present schema, one step and one transaction at a time.
fn migrate(options: &Options, engine: &Engine, side_files: &SideFiles) -> Result<(), Error> {
    let stored = engine.get(STORE, SCHEMA)?;
    let Some(mut found) = stored
        .and_then(|raw| raw.try_into().ok())
        .map(u32::from_le_bytes)
    else {
        return write_version(engine, options.version, Writes::new());
    };
    if found > options.version {
        return Err(Error::SchemaTooNew {
            dir: options.dir.clone(),
            found,
            supported: options.version,
        });
    }
    while let Some(migration) = options.migrations.iter().find(|step| step.from == found) {
        let failed = |source: Error| Error::Migration {
            from: migration.from,
            step: migration.step,
            source: Box::new(source),
        };
        let rewrites = (migration.run)(&Old { engine, side_files }).map_err(failed)?;
        let mut writes = Writes::new();
        for rewrite in rewrites {
            let (key, value) = encode(side_files, rewrite).map_err(failed)?;
            writes.insert(key, value);
        }
        side_files.sync_dir().map_err(failed)?;
        write_version(engine, found + 1, writes).map_err(failed)?;
        tracing::info!(
            from = found,
            step = migration.step,
            "the metadata was migrated"
        );
        found += 1;
    }
    Ok(())
}

fn write_version(engine: &Engine, version: u32, mut writes: Writes) -> Result<(), Error> {
    writes.insert(
        (STORE, SCHEMA.to_vec()),
        Some(version.to_le_bytes().to_vec()),
    );
    engine.apply(&writes)?;
    engine.sync()
}

fn encode(side_files: &SideFiles, rewrite: Rewrite) -> Result<Write, Error> {
    let Rewrite { table, key, value } = rewrite;
    let value = match value {
        None => None,
        Some(value) => {
            let json = serde_json::to_vec(&value).map_err(|source| Error::Encode {
                table: TABLES[table],
                key: key.clone(),
                source,
            })?;
            let large = json.len() > INLINE_LIMIT;
            Some(if large {
                side_files.write(&json)?
            } else {
                inline(&json)
            })
        }
    };
    Ok(((table, key.into_bytes()), value))
}

/// Removes the side files that a crash left without a record.
fn sweep(engine: &Engine, side_files: &SideFiles) -> Result<(), Error> {
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

struct Old<'a> {
    engine: &'a Engine,
    side_files: &'a SideFiles,
}

impl OldRecords for Old<'_> {
    fn read(&self, table: usize) -> Result<Vec<(String, serde_json::Value)>, Error> {
        let entries = self.engine.scan(table)?;
        // What cannot be read is left as it is; the first scan sets it aside.
        Ok(entries
            .into_iter()
            .filter_map(|(key, raw)| {
                let json = self.side_files.read(&raw).ok()?;
                Some((
                    String::from_utf8(key).ok()?,
                    serde_json::from_slice(&json).ok()?,
                ))
            })
            .collect())
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
