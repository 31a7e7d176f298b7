//! Cgroups that could not be removed in time, because a killed process sleeps in the kernel (on a
//! file system that hangs, say). They are tried again until they are gone; the list is kept in the
//! runtime directory, so that the next daemon goes on with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_cgroups::{CgroupHost, CgroupPath};
use parking_lot::Mutex;

use crate::core::Core;
use crate::error::{Error, Result, chain};
use crate::record;
use crate::undo::blocking;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(crate) struct LeftCgroups {
    host: CgroupHost,
    file: PathBuf,
    /// Held while the file is written, so that the newer list is the one that stays.
    paths: Mutex<BTreeSet<String>>,
}

impl LeftCgroups {
    pub fn open(host: CgroupHost, state_dir: &Path) -> Self {
        let file = state_dir.join("left-cgroups.json");
        let paths = record::read(&file).unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "cgroups that were left stay");
            None
        });
        Self {
            host,
            file,
            paths: Mutex::new(paths.unwrap_or_default()),
        }
    }

    pub fn paths(&self) -> Vec<String> {
        self.paths.lock().iter().cloned().collect()
    }

    /// Blocking. False if it is on the list already.
    fn add(&self, path: &str) -> Result<bool> {
        self.change(|paths| paths.insert(path.to_owned()))
    }

    /// Blocking: whether it is gone. Nothing is killed: whoever left it did so, and the same path
    /// may be in use again by now.
    fn remove(&self, path: &str) -> Result<bool> {
        let removed = match CgroupPath::parse(path).and_then(|path| self.host.open(&path)) {
            Ok(cgroup) => cgroup.remove_empty(),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error) => Err(error),
        };
        let removed = removed.map_err(|source| Error::Cgroup {
            path: path.to_owned(),
            source,
        })?;
        if removed {
            self.change(|paths| paths.remove(path))?;
        }
        Ok(removed)
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeSet<String>) -> T) -> Result<T> {
        let mut paths = self.paths.lock();
        let changed = change(&mut paths);
        record::write(&self.file, &*paths)?;
        Ok(changed)
    }
}

/// Takes a cgroup that is still busy on the list, and away as soon as it can be.
pub(crate) async fn remove_later(core: &Arc<Core>, path: &str) {
    let (worker, listed) = (Arc::clone(core), path.to_owned());
    let added = blocking("list the cgroup of", move || {
        worker.left_cgroups.add(&listed)
    })
    .await;
    match added {
        Ok(false) => return,
        Ok(true) => {}
        // Known to this daemon alone then.
        Err(error) => tracing::warn!(cgroup = path, error = chain(&error), "not listed as left"),
    }
    resume(core, path.to_owned());
}

/// Goes on with what is on the list.
pub(crate) fn resume(core: &Arc<Core>, path: String) {
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let (worker, tried) = (Arc::clone(&core), path.clone());
            let outcome = blocking("remove the cgroup of", move || {
                worker.left_cgroups.remove(&tried)
            });
            match outcome.await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(cgroup = path, error = chain(&error), "still not removed");
                }
            }
        }
        tracing::info!(cgroup = path, "the cgroup that was left is removed");
        // Its parent may have waited for that.
        let (worker, removed) = (Arc::clone(&core), path.clone());
        let released = blocking("release the parents of", move || {
            worker.made_cgroups.release(&removed, false)
        });
        if let Err(error) = released.await {
            tracing::warn!(cgroup = path, error = chain(&error), "parents stay");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_known_to_the_next_daemon_until_it_is_gone() {
        let (tree, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inside = tree.path().join("memory/berth/c/inside");
        std::fs::create_dir_all(&inside).unwrap();
        let open = || {
            let host = CgroupHost::detect_at(tree.path()).unwrap();
            LeftCgroups::open(host, state.path())
        };
        let left = open();
        assert!(left.add("/berth/c").unwrap());
        assert!(!left.add("/berth/c").unwrap());
        assert!(!left.remove("/berth/c").unwrap(), "it is in use");
        std::fs::remove_dir(&inside).unwrap();
        let left = open();
        assert_eq!(left.paths(), ["/berth/c"]);
        assert!(left.remove("/berth/c").unwrap());
        assert!(tree.path().join("memory/berth").exists());
        assert!(open().paths().is_empty());
    }
}
