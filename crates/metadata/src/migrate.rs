//! From the schema that is on disk to the one that this code reads.

use std::path::Path;

use crate::Error;
use crate::engine::{Engine, Write, Writes};
use crate::schema::{Migration, OldRecords, Rewrite, STORE, TABLES};
use crate::value::{INLINE_LIMIT, SideFiles, inline};

const SCHEMA: &[u8] = b"schema";

/// Where migrations lead to, and how.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub version: u32,
    pub migrations: &'static [Migration],
}

/// The schema that is on disk; none in a new database.
pub(crate) fn stored_schema(engine: &Engine) -> Result<Option<u32>, Error> {
    let raw = engine.get(STORE, SCHEMA)?;
    Ok(raw
        .and_then(|raw| raw.try_into().ok())
        .map(u32::from_le_bytes))
}

/// Brings an older database to the present schema, one step and one transaction at a time. Says
/// whether there was anything to do.
pub(crate) fn migrate(
    dir: &Path,
    plan: Plan,
    engine: &Engine,
    side_files: &SideFiles,
) -> Result<bool, Error> {
    let Some(mut found) = stored_schema(engine)? else {
        write_version(engine, plan.version, Writes::new())?;
        return Ok(false);
    };
    if found > plan.version {
        return Err(Error::SchemaTooNew {
            dir: dir.to_owned(),
            found,
            supported: plan.version,
        });
    }
    let mut migrated = false;
    while let Some(migration) = plan.migrations.iter().find(|step| step.from == found) {
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
        migrated = true;
    }
    Ok(migrated)
}

/// The schema number and what goes with it, in one transaction, on disk.
pub(crate) fn write_version(
    engine: &Engine,
    version: u32,
    mut writes: Writes,
) -> Result<(), Error> {
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
