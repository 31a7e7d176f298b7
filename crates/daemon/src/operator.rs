//! What an operator asks of the metadata while no daemon runs on it: `berthd check`, `repair`,
//! `export` and `import`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_metadata::{Error, Options, Report, Restored, SetAside, Summary};
use clap::Subcommand;

use crate::config::Config;

/// A daemon that ends gives the store up at once; one that runs does not.
const LOCK_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Read all metadata and say what is wrong with it; ends with 1 if something is
    Check,
    /// Rebuild damaged metadata from its exports and journal, and set unreadable records aside
    Repair,
    /// Write all metadata as text, one JSON record a line
    Export {
        /// Where to; - is standard output
        file: PathBuf,
    },
    /// Fill empty metadata from an export
    Import {
        /// What `berthd export` wrote, or a file below meta/exports
        file: PathBuf,
    },
}

/// Does it. An error where the metadata is not sound, too.
pub fn run(task: &Task, config: &Config) -> Result<()> {
    let meta = config.root.join("meta");
    if !meta.exists() && !matches!(task, Task::Import { .. }) {
        bail!(
            "there is no metadata in {}: is --root right?",
            meta.display()
        );
    }
    let store = || Options::new(&meta).lock_wait(LOCK_WAIT);
    let out = &mut io::stdout().lock();
    match task {
        Task::Check => {
            let report = store().check().map_err(explained)?;
            tell_report(out, &report).context("printing the report")?;
            if !report.is_sound() {
                bail!("the metadata in {} needs `berthd repair`", meta.display());
            }
            Ok(())
        }
        Task::Repair => {
            let (restored, aside) = store().repair().map_err(explained)?;
            tell_repair(out, restored.as_ref(), &aside).context("printing what was done")
        }
        Task::Export { file } => export(&store().open().map_err(explained)?, file),
        Task::Import { file } => {
            let summary = store().import(file).map_err(explained)?;
            tell_summary(out, "imported", &summary).context("printing what was done")
        }
    }
}

fn export(store: &berth_metadata::Store, file: &Path) -> Result<()> {
    if file == Path::new("-") {
        store.export(io::stdout().lock())?;
        return Ok(());
    }
    let target =
        File::create_new(file).with_context(|| format!("cannot create {}", file.display()))?;
    let written = store.export(&target).and_then(|summary| {
        let synced = target.sync_all();
        synced
            .map(|()| summary)
            .map_err(|source| Error::WriteExport { source })
    });
    let summary = written.inspect_err(|_| {
        // Half an export is of no use to anyone; if it stays, its end is missing.
        let _ = std::fs::remove_file(file);
    })?;
    tell_summary(&mut io::stdout().lock(), "exported", &summary).context("printing what was done")
}

/// What to do about a store that is in use.
fn explained(error: Error) -> anyhow::Error {
    let in_use = matches!(error, Error::Locked { .. });
    let error = anyhow::Error::new(error);
    if in_use {
        return error.context("stop berthd first; containers go on without it");
    }
    error
}

fn tell_report(out: &mut impl Write, report: &Report) -> io::Result<()> {
    match &report.database {
        Some(cause) => writeln!(out, "database     damaged: {cause}")?,
        None => writeln!(
            out,
            "database     schema {}, sequence {}",
            report.schema.unwrap_or_default(),
            report.sequence
        )?,
    }
    for (table, count) in &report.records {
        writeln!(out, "  {table:<10} {count}")?;
    }
    tell_bad(out, "unreadable", &report.unreadable)?;
    if report.set_aside > 0 {
        writeln!(out, "set aside    {} records earlier", report.set_aside)?;
    }
    if report.database.is_none() {
        writeln!(out, "journal      {} groups to apply", report.journal)?;
    }
    for (first, last) in &report.missing {
        writeln!(out, "  missing    {first} to {last}")?;
    }
    for (path, export) in &report.exports {
        match export {
            Ok(summary) => writeln!(
                out,
                "export       {} records, sequence {}, {}",
                summary.total(),
                summary.sequence,
                path.display()
            )?,
            Err(cause) => writeln!(out, "export       {cause}")?,
        }
    }
    Ok(())
}

fn tell_repair(
    out: &mut impl Write,
    restored: Option<&Restored>,
    aside: &[SetAside],
) -> io::Result<()> {
    let Some(restored) = restored else {
        tell_bad(out, "set aside", aside)?;
        return match aside {
            [] => writeln!(out, "nothing to repair"),
            _ => Ok(()),
        };
    };
    writeln!(out, "rebuilt      {}", restored.cause)?;
    if let Some(kept) = &restored.kept {
        writeln!(out, "kept         {}", kept.display())?;
    }
    match &restored.export {
        Some(export) => tell_summary(out, "export", export)?,
        None => writeln!(out, "export       none was sound")?,
    }
    writeln!(out, "journal      {} groups applied", restored.replayed)?;
    for (first, last) in &restored.missing {
        writeln!(out, "  lost       {first} to {last}")?;
    }
    tell_bad(out, "set aside", aside)
}

fn tell_bad(out: &mut impl Write, what: &str, records: &[SetAside]) -> io::Result<()> {
    for record in records {
        writeln!(
            out,
            "{what:<12} {}/{}: {}",
            record.table, record.key, record.detail
        )?;
    }
    Ok(())
}

fn tell_summary(out: &mut impl Write, what: &str, summary: &Summary) -> io::Result<()> {
    writeln!(
        out,
        "{what:<12} {} records, sequence {}",
        summary.total(),
        summary.sequence
    )
}
