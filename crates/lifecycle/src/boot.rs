//! Whether what is in the runtime directory is of this boot.
//!
//! The kernel's boot id is kept in `<state>/boot-id`. It is written when everything that was found
//! has been taken over: a start that is cut short finds the same boot again. One that begins with
//! an empty directory says first that it has only begun, since what it writes until then would look
//! like the whole of what there is, and the rest of the store's records like removed ones.
//!
//! In the same boot the runtime directory alone says what there is, and what only the store still
//! has was removed. After a reboot nothing runs, whatever the records say: a runtime directory need
//! not be a tmpfs.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::record;

/// In the place of a boot id while the first start of a boot takes over.
const BEGUN: &str = "";
const KERNEL: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boot {
    /// Processes, mounts and namespaces of the records may be there.
    Same,
    /// They are gone.
    New,
}

impl Boot {
    /// Blocking: which boot the runtime directory is of. One without the mark is of a daemon that
    /// made none, if it holds anything.
    pub fn of(state: &Path) -> Result<Self> {
        let marked = record::read::<String>(&mark(state)).unwrap_or_else(|error| {
            tracing::warn!(
                error = crate::error::chain(&error),
                "the mark of the boot is unreadable"
            );
            None
        });
        Ok(match marked {
            Some(marked) if marked == current()? => Self::Same,
            Some(_) => Self::New,
            None if holds_anything(state) => Self::Same,
            None => Self::New,
        })
    }

    /// Blocking: to be called before anything is written into the directory.
    pub fn begin(self, state: &Path) -> Result<()> {
        match self {
            Self::Same => Ok(()),
            Self::New => record::write(&mark(state), &BEGUN),
        }
    }

    /// Blocking: says that the runtime directory is of this boot from now on.
    pub fn remember(state: &Path) -> Result<()> {
        record::write(&mark(state), &current()?)
    }
}

fn mark(state: &Path) -> PathBuf {
    state.join("boot-id.json")
}

fn current() -> Result<String> {
    let id = std::fs::read_to_string(KERNEL).map_err(|source| Error::State {
        action: "read",
        path: KERNEL.into(),
        source,
    })?;
    Ok(id.trim().to_owned())
}

fn holds_anything(state: &Path) -> bool {
    ["pods", "containers"].iter().any(|kind| {
        let entries = std::fs::read_dir(state.join(kind));
        entries.is_ok_and(|mut entries| entries.next().is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reboot_is_seen_by_the_mark_and_an_empty_directory_is_new() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Boot::of(state.path()).unwrap(), Boot::New);
        std::fs::create_dir_all(state.path().join("pods/p")).unwrap();
        assert_eq!(Boot::of(state.path()).unwrap(), Boot::Same, "no mark yet");
        Boot::remember(state.path()).unwrap();
        assert_eq!(Boot::of(state.path()).unwrap(), Boot::Same);
        std::fs::write(mark(state.path()), "\"another\"").unwrap();
        assert_eq!(Boot::of(state.path()).unwrap(), Boot::New);
    }

    #[test]
    fn a_first_start_that_was_cut_short_is_followed_by_a_first_start() {
        let state = tempfile::tempdir().unwrap();
        Boot::of(state.path()).unwrap().begin(state.path()).unwrap();
        std::fs::create_dir_all(state.path().join("pods/p")).unwrap();
        assert_eq!(Boot::of(state.path()).unwrap(), Boot::New);
        Boot::remember(state.path()).unwrap();
        let same = Boot::of(state.path()).unwrap();
        same.begin(state.path()).unwrap();
        assert_eq!(Boot::of(state.path()).unwrap(), Boot::Same);
    }
}
