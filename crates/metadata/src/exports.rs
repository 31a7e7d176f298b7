//! The exports that the store makes for itself, in `<meta>/exports/`.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::disk::Disk;
use crate::engine::io as failed;
use crate::export::Summary;

/// More than one, so that one that is damaged does not matter.
const KEPT: usize = 3;

/// The store's own exports, by the sequence that each begins with.
pub(crate) struct Exports {
    dir: PathBuf,
    disk: Disk,
}

impl Exports {
    pub(crate) fn open(dir: PathBuf, disk: Disk) -> Result<Self, Error> {
        fs::create_dir_all(&dir).map_err(failed("create directory", &dir))?;
        Ok(Self { dir, disk })
    }

    /// Newest first.
    pub(crate) fn list(&self) -> Result<Vec<(u64, PathBuf)>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let path = entry.map_err(failed("list", &self.dir))?.path();
            let sequence = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_suffix(".jsonl"))
                .and_then(|name| u64::from_str_radix(name, 16).ok());
            if let Some(sequence) = sequence {
                found.push((sequence, path));
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        Ok(found)
    }

    /// Adds one, removes those beyond the last few, and answers with the oldest sequence kept.
    pub(crate) fn add(
        &self,
        write: impl FnOnce(&File) -> Result<Summary, Error>,
    ) -> Result<u64, Error> {
        let temporary = self.dir.join("export.new");
        let written = self.write_file(&temporary, write);
        if written.is_err() {
            // Best effort: the next one begins with an empty file of this name.
            let _ = fs::remove_file(&temporary);
        }
        written?;
        let kept = self.list()?;
        for (_, path) in kept.iter().skip(KEPT) {
            fs::remove_file(path).map_err(failed("remove", path))?;
        }
        let oldest = kept.iter().take(KEPT).next_back();
        Ok(oldest.map_or(0, |(sequence, _)| *sequence))
    }

    fn write_file(
        &self,
        temporary: &Path,
        write: impl FnOnce(&File) -> Result<Summary, Error>,
    ) -> Result<(), Error> {
        let file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(temporary)
            .map_err(failed("create", temporary))?;
        let summary = write(&file)?;
        let path = self.dir.join(format!("{:016x}.jsonl", summary.sequence));
        self.disk.sync(&file).map_err(failed("sync", temporary))?;
        self.disk
            .rename(temporary, &path)
            .map_err(failed("rename to", &path))?;
        self.disk
            .sync_dir(&self.dir)
            .map_err(failed("sync directory", &self.dir))
    }
}
