//! From a database that cannot be read to one that can.
//!
//! ```text
//!  open ──► readable? ── yes ──► apply what the journal has above its sequence ──► serve
//!              │ no
//!              ▼
//!  sled.new: newest sound export ► its journal ► sled → damaged/<time> ► sled.new → sled ► open
//! ```
//!
//! A crash at any point leads here again: the new database takes the old one's place only when it
//! is complete and on disk, and a missing database is rebuilt like a damaged one.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk::Disk;
use crate::engine::{Engine, Writes, io};
use crate::export::{self, Content, Record, Summary};
use crate::exports::Exports;
use crate::journal::{Journal, Replayed};
use crate::migrate::{Plan, migrate, stored_schema, write_version};
use crate::store::chain;
use crate::value::{INLINE_LIMIT, SideFiles, inline};
use crate::{Error, commit, open};

/// Damaged databases that are kept for whoever wants to know.
const KEPT: usize = 2;
/// Records that one transaction of an import writes.
const CHUNK: usize = 256;

/// The store's directory and what lies beside the database.
pub(crate) struct Place {
    pub dir: PathBuf,
    pub cache: u64,
    pub lock_wait: Duration,
    pub plan: Plan,
    pub side_files: SideFiles,
    pub journal: Journal,
    pub exports: Exports,
    pub disk: Disk,
}

/// How a damaged database was rebuilt.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What was wrong with it.
    pub cause: String,
    /// Where it is now; none if it was missing.
    pub kept: Option<PathBuf>,
    /// What it was rebuilt from; none if there was no sound export.
    pub export: Option<Summary>,
    /// Groups of the journal that were applied on top.
    pub replayed: u64,
    /// Groups that are known to be lost, each gap with its first and last sequence.
    pub missing: Vec<(u64, u64)>,
}

impl Restored {
    /// Whether nothing that was acknowledged is known to be lost.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }
}

pub(crate) fn open_or_rebuild(place: &Place) -> Result<(Engine, Option<Restored>), Error> {
    let damage = match open_sound(place) {
        Ok(engine) => return Ok((engine, None)),
        Err(error) if error.is_damage() => error,
        Err(error) => return Err(error),
    };
    let cause = chain(&damage);
    tracing::error!(dir = %place.dir.display(), cause, "the metadata is damaged and will be rebuilt");
    let mut restored = rebuild(place, cause)?;
    restored.kept = exchange(place)?;
    tracing::warn!(
        export = restored.export.as_ref().map(|export| export.sequence),
        replayed = restored.replayed,
        missing = ?restored.missing,
        kept = ?restored.kept,
        "the metadata was rebuilt"
    );
    Ok((open_sound(place)?, Some(restored)))
}

/// The database as it stands, brought up to the journal's end.
pub(crate) fn open_sound(place: &Place) -> Result<Engine, Error> {
    let dir = place.dir.join("sled");
    let was_there = place.journal.count()? > 0 || !place.exports.list()?.is_empty();
    if was_there && !dir.join("db").exists() {
        return Err(Error::Corrupt {
            dir,
            detail: "the database is missing".to_owned(),
        });
    }
    let engine = open_engine(place, "sled")?;
    if was_there && stored_schema(&engine)?.is_none() {
        return Err(Error::Corrupt {
            dir,
            detail: "the database is empty".to_owned(),
        });
    }
    catch_up(place, &engine)?;
    // Reads every page, so that damage shows now.
    open::sweep(&engine, &place.side_files)?;
    Ok(engine)
}

pub(crate) fn open_engine(place: &Place, name: &str) -> Result<Engine, Error> {
    let dir = place.dir.join(name);
    Engine::open(&dir, place.cache, place.lock_wait, place.disk.clone())
}

/// Applies what only the journal has, and migrates.
fn catch_up(place: &Place, engine: &Engine) -> Result<Replayed, Error> {
    let mut replayed = Replayed::default();
    if let Some(schema) = stored_schema(engine)?.filter(|schema| *schema <= place.plan.version) {
        replayed = replay(place, engine, schema)?;
    }
    if migrate(&place.dir, place.plan, engine, &place.side_files)? {
        let more = replay(place, engine, place.plan.version)?;
        replayed.groups += more.groups;
        replayed.last = replayed.last.max(more.last);
        replayed.missing.extend(more.missing);
    }
    if replayed.groups > 0 {
        engine.sync()?;
        tracing::info!(groups = replayed.groups, "applied the metadata journal");
    }
    Ok(replayed)
}

fn replay(place: &Place, engine: &Engine, schema: u32) -> Result<Replayed, Error> {
    let after = commit::stored_sequence(engine)?;
    let apply = |sequence, writes| commit::apply(engine, sequence, writes);
    let replayed = place.journal.replay(schema, after, apply)?;
    if !replayed.missing.is_empty() {
        tracing::error!(missing = ?replayed.missing, "the metadata journal has gaps");
    }
    Ok(replayed)
}

/// Makes `sled.new` from the newest sound export and the journal.
fn rebuild(place: &Place, cause: String) -> Result<Restored, Error> {
    let mut found = None;
    for (_, path) in place.exports.list()? {
        match load(place, &path) {
            Ok(loaded) => {
                found = Some(loaded);
                break;
            }
            Err(error @ Error::BadExport { .. }) => {
                tracing::error!(error = %chain(&error), "an export of the metadata is passed over");
            }
            Err(error) => return Err(error),
        }
    }
    let (engine, export) = match found {
        Some((engine, export)) => (engine, Some(export)),
        None => {
            let engine = fresh(place)?;
            write_version(&engine, place.plan.version, Writes::new())?;
            (engine, None)
        }
    };
    let Replayed {
        groups,
        last,
        mut missing,
    } = catch_up(place, &engine)?;
    // An export that was made while groups came needs those to be exact.
    if let Some(export) = &export
        && last.max(export.sequence) < export.until
    {
        missing.push((last.max(export.sequence) + 1, export.until));
    }
    engine.sync()?;
    Ok(Restored {
        cause,
        kept: None,
        export,
        replayed: groups,
        missing,
    })
}

/// A database of an export's records alone.
fn load(place: &Place, path: &std::path::Path) -> Result<(Engine, Summary), Error> {
    let summary = export::verify(path)?;
    if summary.schema > place.plan.version {
        return Err(Error::BadExport {
            path: path.to_owned(),
            detail: "its schema is of a later version",
        });
    }
    let engine = fresh(place)?;
    import(path, &engine, &place.side_files)?;
    commit::apply(&engine, summary.sequence, Writes::new())?;
    write_version(&engine, summary.schema, Writes::new())?;
    Ok((engine, summary))
}

/// Adds an export's records to a database; nothing is synced.
pub(crate) fn import(
    path: &std::path::Path,
    engine: &Engine,
    side_files: &SideFiles,
) -> Result<Summary, Error> {
    let mut writes = Writes::new();
    let summary = export::read(path, |record| {
        let Record {
            table,
            key,
            content,
        } = record;
        let value = match content {
            Content::Json(json) if json.len() > INLINE_LIMIT => side_files.write(&json)?,
            Content::Json(json) => inline(&json),
            Content::Raw(raw) => raw,
        };
        writes.insert((table, key), Some(value));
        if writes.len() >= CHUNK {
            engine.apply(&std::mem::take(&mut writes))?;
        }
        Ok(())
    })?;
    if !writes.is_empty() {
        engine.apply(&writes)?;
    }
    side_files.sync_dir()?;
    Ok(summary)
}

fn fresh(place: &Place) -> Result<Engine, Error> {
    let dir = place.dir.join("sled.new");
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io("remove", &dir)(error));
        }
        _ => open_engine(place, "sled.new"),
    }
}

/// Puts `sled.new` in the place of `sled`, which is kept. The new database is closed by now.
fn exchange(place: &Place) -> Result<Option<PathBuf>, Error> {
    let (old, new) = (place.dir.join("sled"), place.dir.join("sled.new"));
    let mut kept = None;
    if old.exists() {
        let damaged = place.dir.join("damaged");
        fs::create_dir_all(&damaged).map_err(io("create directory", &damaged))?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let target = damaged.join(format!("{:020}", now.as_nanos()));
        place
            .disk
            .rename(&old, &target)
            .map_err(io("set aside", &old))?;
        kept = Some(target);
        forget_older(&damaged)?;
    }
    place
        .disk
        .rename(&new, &old)
        .map_err(io("rename to", &old))?;
    place
        .disk
        .sync_dir(&place.dir)
        .map_err(io("sync directory", &place.dir))?;
    Ok(kept)
}

fn forget_older(damaged: &std::path::Path) -> Result<(), Error> {
    let entries = fs::read_dir(damaged).map_err(io("list", damaged))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    for path in found.iter().rev().skip(KEPT) {
        fs::remove_dir_all(path).map_err(io("remove", path))?;
    }
    Ok(())
}
