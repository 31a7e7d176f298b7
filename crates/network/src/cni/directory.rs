//! The directory of network configurations. Which file counts is asked at every use: a few `stat`s
//! cost less than a watch, and cannot miss anything.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::conf::NetworkList;

/// More than any sane configuration; a file beyond is not read.
const SIZE_LIMIT: u64 = 1024 * 1024;

/// A usable network, and the file that it came from.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub path: PathBuf,
    pub list: NetworkList,
}

/// The network, or why there is none.
type Choice = Result<Arc<Chosen>, String>;

#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    last: Mutex<Option<(Vec<Stamp>, Choice)>>,
}

/// What changes whenever a file does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    path: PathBuf,
    modified: (i64, i64),
    size: u64,
    inode: u64,
}

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            last: Mutex::new(None),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The first valid file's network, in the order of names.
    pub(crate) fn current(&self) -> Choice {
        let stamps = stamps(&self.path)
            .map_err(|error| format!("cannot list {}: {error}", self.path.display()))?;
        if let Some((seen, choice)) = &*self.last.lock()
            && *seen == stamps
        {
            return choice.clone();
        }
        let choice = choose(&self.path, &stamps);
        match &choice {
            Ok(chosen) => tracing::info!(
                network = chosen.list.name,
                path = %chosen.path.display(),
                "network configuration read"
            ),
            Err(reason) => tracing::info!(reason, "no network configuration"),
        }
        *self.last.lock() = Some((stamps, choice.clone()));
        choice
    }
}

fn choose(directory: &Path, stamps: &[Stamp]) -> Choice {
    let mut faults = Vec::new();
    let files = stamps.iter().filter(|stamp| {
        stamp.path.parent() == Some(directory)
            && has_extension(&stamp.path, &["conf", "conflist", "json"])
    });
    for stamp in files {
        match read(directory, stamp, stamps) {
            Ok(list) => {
                return Ok(Arc::new(Chosen {
                    path: stamp.path.clone(),
                    list,
                }));
            }
            Err(fault) => {
                tracing::warn!(path = %stamp.path.display(), fault, "network configuration skipped");
                faults.push(format!("{}: {fault}", stamp.path.display()));
            }
        }
    }
    if faults.is_empty() {
        return Err(format!(
            "no network configuration in {}",
            directory.display()
        ));
    }
    Err(faults.join("; "))
}

fn read(directory: &Path, stamp: &Stamp, stamps: &[Stamp]) -> Result<NetworkList, String> {
    let text = text(stamp)?;
    let mut list = NetworkList::parse(&text)?;
    if NetworkList::wants_directory(&text) {
        let beside = directory.join(&list.name);
        for part in stamps {
            if part.path.parent() == Some(&beside) && has_extension(&part.path, &["conf"]) {
                list.append(&self::text(part)?)
                    .map_err(|fault| format!("{}: {fault}", part.path.display()))?;
            }
        }
    }
    if list.plugins.is_empty() {
        Err("no plugins".to_owned())
    } else {
        Ok(list)
    }
}

fn text(stamp: &Stamp) -> Result<Vec<u8>, String> {
    if stamp.size > SIZE_LIMIT {
        return Err(format!("{} bytes are too many", stamp.size));
    }
    fs::read(&stamp.path).map_err(|error| error.to_string())
}

/// All regular files of the directory and of its directories, in the order of names.
fn stamps(directory: &Path) -> io::Result<Vec<Stamp>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if metadata.is_file() {
            found.push(Stamp::of(path, &metadata));
        } else if metadata.is_dir() {
            for inner in fs::read_dir(&path).into_iter().flatten().flatten() {
                match fs::metadata(inner.path()) {
                    Ok(metadata) if metadata.is_file() => {
                        found.push(Stamp::of(inner.path(), &metadata));
                    }
                    _ => {}
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

impl Stamp {
    fn of(path: PathBuf, metadata: &fs::Metadata) -> Self {
        Self {
            path,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            size: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

fn has_extension(path: &Path, wanted: &[&str]) -> bool {
    path.extension()
        .and_then(|found| found.to_str())
        .is_some_and(|found| wanted.contains(&found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(name: &str) -> String {
        format!(r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{{"type":"x"}}]}}"#)
    }

    #[test]
    fn the_first_valid_file_by_name_wins_and_changes_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().to_owned());
        let current = || directory.current().map(|chosen| chosen.list.name.clone());
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();

        assert!(current().unwrap_err().contains("no network configuration"));
        write("50-a.conflist", &conf("fifty"));
        assert_eq!(current().unwrap(), "fifty");
        write("10-bad.conflist", "{");
        assert_eq!(current().unwrap(), "fifty");
        write("05-ignored.yaml", &conf("yaml"));
        write("20-b.json", &conf("twenty"));
        assert_eq!(current().unwrap(), "twenty");
        write("20-b.json", &conf("twenty-changed"));
        assert_eq!(current().unwrap(), "twenty-changed");
        fs::remove_file(dir.path().join("20-b.json")).unwrap();
        fs::remove_file(dir.path().join("50-a.conflist")).unwrap();
        assert!(current().unwrap_err().contains("10-bad.conflist"));
    }

    #[test]
    fn an_absent_directory_is_a_reason_and_not_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path().join("none"));
        assert!(
            directory
                .current()
                .unwrap_err()
                .contains("no network configuration")
        );
    }

    #[test]
    fn plugins_beside_the_list_are_appended_unless_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("1.conflist"), conf("net")).unwrap();
        fs::create_dir(dir.path().join("net")).unwrap();
        fs::write(dir.path().join("net/b.conf"), r#"{"type":"beside"}"#).unwrap();
        let directory = Directory::new(dir.path().to_owned());
        let kinds = || -> Vec<String> {
            let chosen = directory.current().unwrap();
            chosen
                .list
                .plugins
                .iter()
                .map(|plugin| plugin.kind().to_owned())
                .collect()
        };
        assert_eq!(kinds(), ["x", "beside"]);
        let only = conf("net").replacen('{', r#"{"loadOnlyInlinedPlugins":true,"#, 1);
        fs::write(dir.path().join("1.conflist"), only).unwrap();
        assert_eq!(kinds(), ["x"]);
    }
}
