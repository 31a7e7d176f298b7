//! The directories of files. What is in them is asked for at every use: a few `stat`s cost less
//! than a watch and cannot miss a file that was written a moment ago, as device plugins do.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Spec;
use parking_lot::Mutex;

use crate::document::{Document, Loaded};
use crate::error::{Error, Result};
use crate::name::DeviceName;

/// Bytes of a file; a description of every card in a machine is far smaller.
const MAX_FILE: u64 = 4 << 20;

/// Devices that files in some directories describe.
#[derive(Debug)]
pub struct Devices {
    /// Later ones win.
    directories: Vec<PathBuf>,
    last: Mutex<(Vec<Stamp>, Arc<Index>)>,
}

/// What changes whenever a file does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    /// Place of the directory in the list.
    priority: usize,
    modified: (i64, i64),
    size: u64,
    inode: u64,
}

/// Everything that is described, and what is wrong.
#[derive(Debug, Default)]
struct Index {
    devices: HashMap<DeviceName, Entry>,
    faults: Vec<String>,
}

#[derive(Debug, Clone)]
enum Entry {
    Described {
        priority: usize,
        file: Arc<Loaded>,
        device: usize,
    },
    /// Two files of the same directory describe it.
    Conflict {
        priority: usize,
        one: PathBuf,
        other: PathBuf,
    },
}

impl Devices {
    /// Directories that are missing are taken for empty.
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            last: Mutex::default(),
        }
    }

    /// Gives `names` to the container that `spec` describes: for each, the edits of its file once,
    /// then its own. Blocking.
    pub fn inject(&self, names: &[DeviceName], spec: &mut Spec) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let index = self.current();
        let mut edited = HashSet::new();
        for name in names {
            let (file, device) = index.find(name, &self.directories)?;
            if edited.insert(file.path.clone()) {
                file.document.container_edits.apply(spec)?;
            }
            if let Some(device) = file.document.devices.get(device) {
                device.container_edits.apply(spec)?;
            }
        }
        Ok(())
    }

    /// The names of all devices that can be given, sorted, and what is wrong with files.
    pub fn list(&self) -> (Vec<String>, Vec<String>) {
        let index = self.current();
        let usable = |entry: &Entry| matches!(entry, Entry::Described { .. });
        let mut names: Vec<String> = index
            .devices
            .iter()
            .filter(|(_, entry)| usable(entry))
            .map(|(name, _)| name.to_string())
            .collect();
        names.sort();
        (names, index.faults.clone())
    }

    fn current(&self) -> Arc<Index> {
        let stamps = self.stamps();
        {
            let last = self.last.lock();
            if last.0 == stamps {
                return Arc::clone(&last.1);
            }
        }
        let index = Arc::new(Index::read(&stamps));
        for fault in &index.faults {
            tracing::warn!(fault, "CDI");
        }
        tracing::info!(
            files = stamps.len(),
            devices = index.devices.len(),
            "CDI descriptions read"
        );
        *self.last.lock() = (stamps, Arc::clone(&index));
        index
    }

    fn stamps(&self) -> Vec<Stamp> {
        let mut stamps = Vec::new();
        for (priority, directory) in self.directories.iter().enumerate() {
            let entries = match fs::read_dir(directory) {
                Ok(entries) => entries,
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::warn!(directory = %directory.display(), %error, "CDI: not listed");
                    continue;
                }
            };
            let paths = entries.flatten().map(|entry| entry.path());
            let mut found: Vec<Stamp> = paths
                .filter(|path| {
                    let extension = path.extension().and_then(|extension| extension.to_str());
                    matches!(extension, Some("json" | "yaml"))
                })
                // Links are followed: that is how packages enable a file.
                .filter_map(|path| {
                    let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
                    Some(Stamp {
                        path,
                        priority,
                        modified: (metadata.mtime(), metadata.mtime_nsec()),
                        size: metadata.size(),
                        inode: metadata.ino(),
                    })
                })
                .collect();
            found.sort_by(|a, b| a.path.cmp(&b.path));
            stamps.extend(found);
        }
        stamps
    }
}

impl Index {
    fn read(stamps: &[Stamp]) -> Self {
        let mut index = Self::default();
        for stamp in stamps {
            match load(&stamp.path) {
                Ok(document) => index.add(stamp, document),
                Err(problem) => {
                    let fault = format!("{}: {problem}", stamp.path.display());
                    index.faults.push(fault);
                }
            }
        }
        index
    }

    fn add(&mut self, stamp: &Stamp, document: Document) {
        let file = Arc::new(Loaded {
            path: stamp.path.clone(),
            document,
        });
        let priority = stamp.priority;
        for (device, described) in file.document.devices.iter().enumerate() {
            let name = DeviceName::of(&file.document.kind, &described.name);
            let entry = match self.devices.get(&name) {
                Some(known) if known.priority() == priority => {
                    let (one, other) = (known.path().to_owned(), file.path.clone());
                    self.faults.push(format!(
                        "{name} is described by both {} and {}",
                        one.display(),
                        other.display()
                    ));
                    Entry::Conflict {
                        priority,
                        one,
                        other,
                    }
                }
                // What was read before is of an earlier directory.
                _ => Entry::Described {
                    priority,
                    file: Arc::clone(&file),
                    device,
                },
            };
            self.devices.insert(name, entry);
        }
    }

    fn find(&self, name: &DeviceName, directories: &[PathBuf]) -> Result<(&Loaded, usize)> {
        match self.devices.get(name) {
            Some(Entry::Described { file, device, .. }) => Ok((file, *device)),
            Some(Entry::Conflict { one, other, .. }) => Err(Error::Conflict {
                name: name.to_string(),
                one: one.clone(),
                other: other.clone(),
            }),
            None => Err(Error::Unknown {
                name: name.to_string(),
                directories: directories.to_vec(),
                hints: self.hints(),
            }),
        }
    }

    fn hints(&self) -> String {
        const SHOWN: usize = 3;
        let hints = self.faults.iter().take(SHOWN);
        hints.map(|fault| format!("; {fault}")).collect()
    }
}

impl Entry {
    fn priority(&self) -> usize {
        match self {
            Entry::Described { priority, .. } | Entry::Conflict { priority, .. } => *priority,
        }
    }

    fn path(&self) -> &Path {
        match self {
            Entry::Described { file, .. } => &file.path,
            Entry::Conflict { one, .. } => one,
        }
    }
}

fn load(path: &Path) -> Result<Document, String> {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("it has more than {MAX_FILE} bytes"));
    }
    Document::parse(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::SpecBuilder;

    struct Machine {
        base: tempfile::TempDir,
        devices: Devices,
    }

    impl Machine {
        fn new() -> Self {
            let base = tempfile::tempdir().unwrap();
            let directories = ["etc", "run"].map(|name| base.path().join(name));
            Self {
                devices: Devices::new(directories.to_vec()),
                base,
            }
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.base.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A file whose device `name` sets a variable to `value`.
        fn describe(&self, path: &str, name: &str, value: &str) {
            self.write(
                path,
                &format!(
                    "cdiVersion: 0.5.0\nkind: v/c\ncontainerEdits: {{env: [ALL={value}]}}\n\
                     devices: [{{name: {name}, containerEdits: {{env: [ONE={value}]}}}}]\n"
                ),
            );
        }

        fn env(&self, names: &[&str]) -> Result<Vec<String>> {
            let names: Vec<_> = names
                .iter()
                .map(|n| DeviceName::parse(n).unwrap())
                .collect();
            let mut spec = SpecBuilder::default().build().unwrap();
            spec.process_mut().as_mut().unwrap().set_env(None);
            self.devices.inject(&names, &mut spec)?;
            let process = spec.process().as_ref().unwrap();
            Ok(process.env().clone().unwrap_or_default())
        }
    }

    #[test]
    fn a_file_counts_from_the_moment_that_it_is_there() {
        let machine = Machine::new();
        assert!(matches!(
            machine.env(&["v/c=a"]),
            Err(Error::Unknown { .. })
        ));
        machine.describe("etc/one.yaml", "a", "first");
        assert_eq!(machine.env(&["v/c=a"]).unwrap(), ["ALL=first", "ONE=first"]);
        machine.describe("etc/one.yaml", "a", "changed");
        assert_eq!(
            machine.env(&["v/c=a"]).unwrap(),
            ["ALL=changed", "ONE=changed"]
        );
        fs::remove_file(machine.base.path().join("etc/one.yaml")).unwrap();
        assert!(machine.env(&["v/c=a"]).is_err());
        assert!(machine.env(&[]).unwrap().is_empty());
    }

    #[test]
    fn the_later_directory_wins_and_equals_conflict() {
        let machine = Machine::new();
        machine.describe("etc/one.yaml", "a", "installed");
        machine.describe("run/one.yaml", "a", "made");
        assert_eq!(machine.env(&["v/c=a"]).unwrap(), ["ALL=made", "ONE=made"]);
        machine.describe("run/two.yaml", "a", "again");
        let conflict = machine.env(&["v/c=a"]).unwrap_err().to_string();
        assert!(
            conflict.contains("run/one.yaml") && conflict.contains("run/two.yaml"),
            "{conflict}"
        );
        let (names, faults) = machine.devices.list();
        assert!(
            names.is_empty() && faults.len() == 1,
            "{names:?} {faults:?}"
        );
    }

    #[test]
    fn a_bad_file_takes_no_other_along_and_is_named() {
        let machine = Machine::new();
        machine.describe("etc/good.yaml", "a", "x");
        machine.write("etc/bad.json", "{ \"cdiVersion\": ");
        machine.write("etc/ignored.txt", "nothing");
        assert!(machine.env(&["v/c=a"]).is_ok());
        let error = machine.env(&["v/c=b"]).unwrap_err().to_string();
        assert!(
            error.contains("bad.json") && error.contains("v/c=b"),
            "{error}"
        );
    }
}
