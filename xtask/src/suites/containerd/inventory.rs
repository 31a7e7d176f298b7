//! What containerd and its containers hold on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::session::Session;
use crate::command::retry;

/// Shims exit, and cgroups empty, behind the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// FIFOs that nobody named a directory for.
const FIFOS: &str = "/run/containerd/fifo";

/// Things by kind.
#[derive(Debug, Default)]
pub struct Inventory(BTreeMap<&'static str, BTreeSet<String>>);

impl Inventory {
    pub fn take(session: &Session) -> Result<Self> {
        let (place, state) = (&session.place, session.place.state());
        let scratch = place.scratch();
        let paths = |paths: Vec<std::path::PathBuf>| -> BTreeSet<String> {
            let paths = paths.into_iter();
            paths.map(|path| path.display().to_string()).collect()
        };
        let tasks = "io.containerd.runtime.v2.task";
        Ok(Self(BTreeMap::from([
            ("process", processes(session)?),
            ("mount", paths(place.mounts()?)),
            ("cgroup", paths(session.parent.directories())),
            ("socket", below(&scratch.join("s"), 1)),
            ("bundle", below(&state.join(tasks), 2)),
            ("directory of a task", below(&place.root().join(tasks), 2)),
            ("stream", below(&scratch.join("fifo"), 1)),
            ("stream elsewhere", below(Path::new(FIFOS), 1)),
        ])))
    }

    /// Waits until nothing is there that was not there before.
    pub fn nothing_more(&self, session: &Session) -> Result<()> {
        retry(PATIENCE, || {
            let now = Self::take(session)?;
            let more: Vec<String> = now.beyond(self);
            ensure!(more.is_empty(), "left behind: {}", more.join("; "));
            Ok(())
        })
    }

    fn beyond(&self, before: &Self) -> Vec<String> {
        let nothing = BTreeSet::new();
        let mut more = Vec::new();
        for (kind, things) in &self.0 {
            let known = before.0.get(kind).unwrap_or(&nothing);
            more.extend(things.difference(known).map(|it| format!("{kind} {it}")));
        }
        more
    }
}

/// All that work in the place, but for containerd itself.
fn processes(session: &Session) -> Result<BTreeSet<String>> {
    let containerd = session.pid().and_then(|pid| i32::try_from(pid).ok());
    let pids = session.place.processes()?.into_iter();
    let others = pids.filter(|pid| Some(*pid) != containerd);
    let described = others.map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&line).replace('\0', " ");
        format!("{pid} {}", words.trim())
    });
    Ok(described.collect())
}

/// What is so many levels below a directory.
fn below(directory: &Path, levels: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match levels {
            0 | 1 => drop(found.insert(entry.path().display().to_string())),
            _ => found.extend(below(&entry.path(), levels - 1)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told() {
        let things = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned());
            Inventory(BTreeMap::from([("mount", names.collect())]))
        };
        let before = things(&["/a", "/b"]);
        assert!(things(&["/b"]).beyond(&before).is_empty());
        assert_eq!(things(&["/b", "/c"]).beyond(&before), ["mount /c"]);
    }
}
