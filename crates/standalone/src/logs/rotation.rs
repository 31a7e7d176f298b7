//! Keeps logs from filling the disk.
//!
//! `container.log` is written; it becomes `container.log.1` when it is full, that becomes
//! `container.log.2`, and so on. Once its writer has let go of a file it may be compressed:
//! `container.log.1.gz`.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_lifecycle::chain;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use super::driver::Bounds;
use crate::error::{Error, Result};
use crate::files::blocking;
use crate::house::House;

/// How often logs are looked at for their size.
const EVERY: Duration = Duration::from_secs(5);
const COMPRESSED: &str = ".gz";

pub(crate) async fn rotate_all(house: std::sync::Weak<House>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(house) = house.upgrade() else { return };
        for container in house.all() {
            let Ok(run) = container.running() else {
                continue;
            };
            let view = container.view();
            let bounds = Bounds::of(&view.host.log_config);
            let Some(path) = view.log_path.clone() else {
                continue;
            };
            let log = path.clone();
            let turned = blocking(move || Ok(rotate(&log, bounds.most, bounds.files))).await;
            if !turned.unwrap_or(false) {
                continue;
            }
            if let Err(error) = run.reopen_log().await {
                tracing::warn!(id = %view.id, error = chain(&error), "log not opened again");
                continue;
            }
            if bounds.compress
                && let Err(error) = blocking(move || compress_older(&path)).await
            {
                tracing::warn!(id = %view.id, error = chain(&error), "log not compressed");
            }
        }
    }
}

/// Moves a log that has grown beyond `most` bytes away, and keeps `files` of them in all. True when
/// its writer has to open it again, which is so as well where that was missed.
fn rotate(path: &Path, most: u64, files: u32) -> bool {
    match fs::metadata(path) {
        Ok(found) if found.len() <= most => return false,
        Ok(_) => {}
        Err(error) => return error.kind() == io::ErrorKind::NotFound,
    }
    let oldest = files.saturating_sub(1);
    for ending in ["", COMPRESSED] {
        let _none_yet = fs::remove_file(numbered(path, oldest.max(1), ending));
    }
    for number in (1..oldest).rev() {
        for ending in ["", COMPRESSED] {
            let (from, to) = (
                numbered(path, number, ending),
                numbered(path, number + 1, ending),
            );
            let _not_there = fs::rename(from, to);
        }
    }
    match oldest {
        0 => fs::remove_file(path).is_ok(),
        _ => fs::rename(path, numbered(path, 1, "")).is_ok(),
    }
}

/// Compresses what was rotated away; what was begun before is begun again.
fn compress_older(path: &Path) -> Result<()> {
    for number in 1.. {
        let (plain, packed) = (
            numbered(path, number, ""),
            numbered(path, number, COMPRESSED),
        );
        if !plain.exists() {
            if !packed.exists() {
                return Ok(());
            }
            continue;
        }
        let unfinished = numbered(path, number, ".gz.new");
        let done = pack(&plain, &unfinished).and_then(|()| fs::rename(&unfinished, &packed));
        done.and_then(|()| fs::remove_file(&plain))
            .map_err(Error::file("compress", &plain))?;
    }
    Ok(())
}

fn pack(plain: &Path, packed: &Path) -> io::Result<()> {
    let mut from = File::open(plain)?;
    let mut to = GzEncoder::new(File::create(packed)?, Compression::fast());
    io::copy(&mut from, &mut to)?;
    to.finish()?.sync_all()
}

/// A file that was rotated away, open: it is read to its end whatever becomes of its name.
pub(super) enum Older {
    Plain(File),
    Compressed(File),
}

/// All that were rotated away, oldest first.
pub(super) fn older(path: &Path) -> VecDeque<Older> {
    let mut found = VecDeque::new();
    for number in 1.. {
        // What is there as both was compressed, and only not removed yet.
        if let Ok(file) = File::open(numbered(path, number, COMPRESSED)) {
            found.push_front(Older::Compressed(file));
        } else if let Ok(file) = File::open(numbered(path, number, "")) {
            found.push_front(Older::Plain(file));
        } else {
            break;
        }
    }
    found
}

impl Older {
    /// Its text; a compressed one is unpacked to a file without a name beside the log.
    pub fn text(self, log: &Path) -> Result<File> {
        match self {
            Self::Plain(file) => Ok(file),
            Self::Compressed(file) => {
                unpack(file, log).map_err(Error::file("read what was rotated away of", log))
            }
        }
    }
}

fn unpack(packed: File, log: &Path) -> io::Result<File> {
    use std::io::Seek;
    let place = log.with_extension(format!("read-{:016x}", fastrand::u64(..)));
    let mut options = File::options();
    let mut text = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&place)?;
    fs::remove_file(&place)?;
    io::copy(&mut GzDecoder::new(packed), &mut text)?;
    text.rewind()?;
    Ok(text)
}

fn numbered(path: &Path, number: u32, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}{ending}"));
    name.into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Read;

    pub(in crate::logs) fn turn(path: &Path, files: u32, compressed: bool) {
        assert!(rotate(path, 0, files));
        if compressed {
            compress_older(path).unwrap();
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn texts(path: &Path) -> String {
        let mut all = String::new();
        for file in older(path) {
            file.text(path).unwrap().read_to_string(&mut all).unwrap();
        }
        all
    }

    #[test]
    fn of_rotated_files_only_so_many_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for number in 0..5 {
            fs::write(&path, format!("{number}\n")).unwrap();
            turn(&path, 3, number % 2 == 0);
        }
        assert_eq!(names(dir.path()), ["log.1.gz", "log.2.gz"]);
        assert_eq!(texts(&path), "3\n4\n");
        // Its writer missed that the file is gone.
        assert!(rotate(&path, 0, 3));
        fs::write(&path, "").unwrap();
        assert!(!rotate(&path, 0, 3));
        fs::write(&path, "5\n").unwrap();
        turn(&path, 1, true);
        assert!(!path.exists());
    }

    #[test]
    fn compression_that_was_cut_short_is_made_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "one\n").unwrap();
        turn(&path, 5, true);
        fs::write(&path, "two\n").unwrap();
        turn(&path, 5, false);
        fs::write(dir.path().join("log.1.gz.new"), "half of").unwrap();
        // Compressed, and the plain one not removed.
        fs::write(dir.path().join("log.2"), "one\n").unwrap();
        assert_eq!(texts(&path), "one\ntwo\n");
        compress_older(&path).unwrap();
        assert_eq!(names(dir.path()), ["log.1.gz", "log.2.gz"]);
        assert_eq!(texts(&path), "one\ntwo\n");
    }
}
