//! Cgroups above containers that this runtime made, and therefore has to take away.
//!
//! A pod without a parent of its own lives in `<default parent>/<pod id>`, which goes with it.
//! Whatever else had to be made on the way, or was named by a client and did not exist, may be
//! shared by pods: it goes when it is empty. What existed belongs to whoever made it (a kubelet,
//! an admin) and stays. The list is kept in the runtime directory, because cgroups outlive the
//! daemon as they do not outlive the boot.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use berth_cgroups::{Cgroup, CgroupHost, CgroupPath};
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::error::{Error, Result, chain};
use crate::record;

/// Somebody may remove an empty parent between its making and that of its child.
const ATTEMPTS: usize = 5;

pub(crate) struct MadeCgroups {
    host: CgroupHost,
    file: PathBuf,
    /// Held while the file is written, so that the newer list is the one that stays; nobody
    /// else waits for it.
    shared: Mutex<BTreeSet<String>>,
}

impl MadeCgroups {
    /// Takes over what an earlier daemon of this boot made.
    pub fn open(host: CgroupHost, state_dir: &Path) -> Self {
        let file = state_dir.join("cgroups.json");
        let shared = record::read(&file).unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "cgroups that were made stay");
            None
        });
        Self {
            host,
            file,
            shared: Mutex::new(shared.unwrap_or_default()),
        }
    }

    /// Blocking: the cgroup `path`, made where it is missing. Its undo is [`MadeCgroups::release`].
    pub fn make(&self, path: &str, own: bool) -> Result<Cgroup> {
        // Listed before it is made: a daemon that is killed in between takes away what it can.
        let planned = self.missing(path, own)?;
        if !planned.is_empty() {
            self.change(|shared| shared.extend(planned.iter().cloned()))?;
        }
        let cgroup = self.create(path)?;
        berth_faults::at("cgroup.make.after-create")?;
        let made: BTreeSet<String> = cgroup
            .created_levels()
            .iter()
            .filter(|level| !own || *level != cgroup.path())
            .map(ToString::to_string)
            .collect();
        if !made.is_subset(&planned) {
            self.change(|shared| shared.extend(made))?;
        }
        Ok(cgroup)
    }

    /// The levels of `path` that are not there, without the last one if it is the pod's `own`.
    fn missing(&self, path: &str, own: bool) -> Result<BTreeSet<String>> {
        let whole = CgroupPath::parse(path).map_err(|source| failed(path, source))?;
        let mut levels = whole.levels();
        if own {
            levels.pop();
        }
        let mut missing = BTreeSet::new();
        for level in levels.iter().rev() {
            match self.host.open(level) {
                Err(error) if error.is_not_found() => _ = missing.insert(level.to_string()),
                // What is above it is there as well; other failures are for the making to tell.
                _ => break,
            }
        }
        Ok(missing)
    }

    /// Blocking: after a reboot nothing is there that an earlier daemon made.
    pub fn forget_all(&self) -> Result<()> {
        self.change(BTreeSet::clear)
    }

    fn create(&self, path: &str) -> Result<Cgroup> {
        let wanted = CgroupPath::parse(path).map_err(|source| failed(path, source))?;
        let mut attempts = 1;
        loop {
            match self.host.create(&wanted) {
                Err(error)
                    if attempts < ATTEMPTS
                        && error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) =>
                {
                    attempts += 1;
                }
                outcome => return outcome.map_err(|source| failed(path, source)),
            }
        }
    }

    /// Blocking: removes what was made for `path` and is not in use any more. With `own` the
    /// cgroup itself goes with all that is in it. Repeating it is harmless.
    pub fn release(&self, path: &str, own: bool) -> Result<()> {
        let whole = CgroupPath::parse(path).map_err(|source| failed(path, source))?;
        if own {
            self.remove(&whole).map_err(|source| failed(path, source))?;
        }
        for level in whole.levels().iter().rev() {
            let level = level.as_str();
            // Off the list first: what is made again from now on is listed again.
            if !self.shared.lock().contains(level) {
                continue;
            }
            self.change(|shared| shared.remove(level))?;
            match self.remove_empty(level) {
                Ok(true) => {}
                Ok(false) => return self.change(|shared| shared.insert(level.to_owned())),
                Err(error) => {
                    self.change(|shared| shared.insert(level.to_owned()))?;
                    return Err(failed(level, error));
                }
            }
        }
        Ok(())
    }

    fn remove(&self, path: &CgroupPath) -> berth_cgroups::Result<()> {
        match self.host.open(path) {
            Ok(cgroup) => cgroup.kill_all(9).and_then(|()| cgroup.remove()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn remove_empty(&self, path: &str) -> berth_cgroups::Result<bool> {
        match CgroupPath::parse(path).and_then(|path| self.host.open(&path)) {
            Ok(cgroup) => cgroup.remove_empty(),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeSet<String>) -> T) -> Result<()> {
        let mut shared = self.shared.lock();
        change(&mut shared);
        record::write(&self.file, &*shared)
    }
}

fn failed(path: &str, source: berth_cgroups::Error) -> Error {
    Error::Cgroup {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree {
        cgroups: tempfile::TempDir,
        state: tempfile::TempDir,
    }

    impl Tree {
        fn new() -> Self {
            let tree = Self {
                cgroups: tempfile::tempdir().unwrap(),
                state: tempfile::tempdir().unwrap(),
            };
            for hierarchy in ["cpu", "memory"] {
                std::fs::create_dir(tree.cgroups.path().join(hierarchy)).unwrap();
            }
            tree
        }

        fn open(&self) -> MadeCgroups {
            let host = CgroupHost::detect_at(self.cgroups.path()).unwrap();
            MadeCgroups::open(host, self.state.path())
        }

        fn has(&self, path: &str) -> bool {
            self.cgroups.path().join("memory").join(path).exists()
        }
    }

    #[test]
    fn the_default_parent_goes_with_the_last_pod() {
        let tree = Tree::new();
        let made = tree.open();
        assert!(made.make("/berth/a", true).unwrap().created());
        assert!(made.make("/berth/b", true).unwrap().created());
        made.release("/berth/a", true).unwrap();
        assert!(tree.has("berth/b") && !tree.has("berth/a"));
        // Also where another daemon made it.
        tree.open().release("/berth/b", true).unwrap();
        assert!(!tree.has("berth"));
        tree.open().release("/berth/b", true).unwrap();
    }

    #[test]
    fn what_a_client_made_stays_and_what_it_only_named_goes_when_it_is_empty() {
        let tree = Tree::new();
        for hierarchy in ["cpu", "memory"] {
            std::fs::create_dir(tree.cgroups.path().join(hierarchy).join("kubepods")).unwrap();
        }
        let made = tree.open();
        assert!(!made.make("/kubepods", false).unwrap().created());
        assert!(made.make("/kubepods/x/pod", false).unwrap().created());
        assert!(!made.make("/kubepods/x/pod", false).unwrap().created());
        let container = tree.cgroups.path().join("memory/kubepods/x/pod/c");
        std::fs::create_dir(&container).unwrap();
        made.release("/kubepods/x/pod", false).unwrap();
        assert!(container.exists(), "another pod's container is in it");
        std::fs::remove_dir(&container).unwrap();
        made.release("/kubepods/x/pod", false).unwrap();
        assert!(tree.has("kubepods") && !tree.has("kubepods/x"));
    }
}
