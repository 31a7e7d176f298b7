//! What an operator may ask of a store that no daemon has open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::engine::Engine;
use crate::export::{Summary, verify};
use crate::journal::Replayed;
use crate::migrate::stored_schema;
use crate::restore::{self, Place, Restored};
use crate::schema::{self, ImageRecord, LeaseRecord, ReferenceRecord, SET_ASIDE, STORE, TABLES};
use crate::store::{SetAside, chain};
use crate::value::{SideFiles, Unreadable};
use crate::{Error, Options, commit};

/// What a check has found.
#[derive(Debug)]
pub struct Report {
    /// Why the database cannot be read, if it cannot.
    pub database: Option<String>,
    /// Of the database on disk; the journal may have more.
    pub sequence: u64,
    pub schema: Option<u32>,
    /// Records by table.
    pub records: BTreeMap<String, u64>,
    /// Records that cannot be read.
    pub unreadable: Vec<SetAside>,
    /// Records that were set aside by earlier runs.
    pub set_aside: u64,
    /// Groups that only the journal has.
    pub journal: u64,
    /// Sequences that the journal should have and has not.
    pub missing: Vec<(u64, u64)>,
    /// Newest first.
    pub exports: Vec<(PathBuf, Result<Summary, String>)>,
}

impl Report {
    /// Whether there is nothing to repair.
    pub fn is_sound(&self) -> bool {
        self.database.is_none()
            && self.unreadable.is_empty()
            && self.missing.is_empty()
            && self.exports.iter().all(|(_, export)| export.is_ok())
    }
}

impl Options {
    /// Reads everything and changes nothing but what the engine does at every opening.
    ///
    /// # Errors
    /// [`Error::Locked`] while a daemon uses the store; I/O. Damage is in the report.
    pub fn check(&self) -> Result<Report, Error> {
        let _lock = self.lock()?;
        let place = self.place()?;
        let mut report = Report {
            database: None,
            sequence: 0,
            schema: None,
            records: BTreeMap::new(),
            unreadable: Vec::new(),
            set_aside: 0,
            journal: 0,
            missing: Vec::new(),
            exports: Vec::new(),
        };
        if let Err(error) = check_database(&place, &mut report) {
            if !error.is_damage() {
                return Err(error);
            }
            report.database = Some(chain(&error));
        }
        for (_, path) in place.exports.list()? {
            let verdict = verify(&path).map_err(|error| chain(&error));
            report.exports.push((path, verdict));
        }
        Ok(report)
    }

    /// Makes the store readable: rebuilds a damaged database, and sets aside records that cannot
    /// be read.
    ///
    /// # Errors
    /// [`Error::Locked`] while a daemon uses the store; I/O.
    pub fn repair(&self) -> Result<(Option<Restored>, Vec<SetAside>), Error> {
        let _lock = self.lock()?;
        let place = self.place()?;
        let (engine, restored) = restore::open_or_rebuild(&place)?;
        let mut bad = Vec::new();
        each(&engine, &place.side_files, |table, key, raw, outcome| {
            let Err(detail) = outcome else { return Ok(()) };
            commit::set_aside(&engine, table, key, raw)?;
            bad.push(told(table, key, detail));
            Ok(())
        })?;
        engine.sync()?;
        Ok((restored, bad))
    }

    /// Fills an empty store with the records of an export.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::BadExport`], [`Error::Locked`]; I/O. The store is as it was
    /// then, except where the disk failed in between: such a store is rebuilt when it is opened.
    pub fn import(&self, path: &Path) -> Result<Summary, Error> {
        let _lock = self.lock()?;
        let place = self.place()?;
        let summary = verify(path)?;
        if summary.schema > self.schema() {
            return Err(Error::SchemaTooNew {
                dir: self.dir().to_owned(),
                found: summary.schema,
                supported: self.schema(),
            });
        }
        let (engine, _) = restore::open_or_rebuild(&place)?;
        let records = count(&engine)?;
        if records > 0 {
            return Err(Error::NotEmpty {
                dir: self.dir().to_owned(),
                records,
            });
        }
        restore::import(path, &engine, &place.side_files)?;
        // Above everything that was ever journalled here: an old group must not be applied on top.
        let sequence = commit::stored_sequence(&engine)?.max(summary.until) + 1;
        commit::apply(&engine, sequence, crate::engine::Writes::new())?;
        crate::migrate::write_version(&engine, summary.schema, crate::engine::Writes::new())?;
        Ok(summary)
    }
}

fn check_database(place: &Place, report: &mut Report) -> Result<(), Error> {
    if !place.dir.join("sled/db").exists() {
        let detail = "the database is missing".to_owned();
        let dir = place.dir.join("sled");
        return Err(Error::Corrupt { dir, detail });
    }
    let engine = restore::open_engine(place, "sled")?;
    report.sequence = commit::stored_sequence(&engine)?;
    report.schema = stored_schema(&engine)?;
    for (table, name) in TABLES
        .iter()
        .enumerate()
        .filter(|(table, _)| *table != STORE)
    {
        report.records.insert((*name).to_owned(), 0);
        if table == SET_ASIDE {
            report.set_aside = engine.scan(table)?.len() as u64;
        }
    }
    each(&engine, &place.side_files, |table, key, _, outcome| {
        *report.records.entry(TABLES[table].to_owned()).or_default() += 1;
        if let Err(detail) = outcome {
            report.unreadable.push(told(table, key, detail));
        }
        Ok(())
    })?;
    let schema = report.schema.unwrap_or(schema::VERSION);
    let Replayed {
        groups, missing, ..
    } = place
        .journal
        .replay(schema, report.sequence, |_, _| Ok(()))?;
    report.journal = groups;
    report.missing = missing;
    Ok(())
}

/// Shows every record with what is wrong with it.
fn each(
    engine: &Engine,
    side_files: &SideFiles,
    mut see: impl FnMut(usize, &[u8], &[u8], Result<(), String>) -> Result<(), Error>,
) -> Result<(), Error> {
    for table in (0..TABLES.len()).filter(|table| ![SET_ASIDE, STORE].contains(table)) {
        for (key, raw) in engine.scan(table)? {
            let outcome = match side_files.read(&raw) {
                Ok(json) => decodes(table, &json),
                Err(Unreadable::Bad(detail)) => Err(detail),
                Err(Unreadable::Io(error)) => return Err(error),
            };
            see(table, &key, &raw, outcome)?;
        }
    }
    Ok(())
}

/// Records whose type belongs to another crate only have to be JSON.
fn decodes(table: usize, json: &[u8]) -> Result<(), String> {
    fn is<T: DeserializeOwned>(json: &[u8]) -> Result<(), String> {
        serde_json::from_slice::<T>(json)
            .map(drop)
            .map_err(|error| error.to_string())
    }
    match table {
        0 => is::<ImageRecord>(json),
        1 => is::<ReferenceRecord>(json),
        2 => is::<LeaseRecord>(json),
        _ => is::<serde_json::Value>(json),
    }
}

fn told(table: usize, key: &[u8], detail: String) -> SetAside {
    SetAside {
        table: TABLES[table].to_owned(),
        key: String::from_utf8_lossy(key).into_owned(),
        detail,
    }
}

fn count(engine: &Engine) -> Result<u64, Error> {
    let mut records = 0;
    for table in (0..TABLES.len()).filter(|table| *table != STORE) {
        records += engine.scan(table)?.len() as u64;
    }
    Ok(records)
}
