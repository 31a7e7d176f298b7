//! What a daemon and its pods hold on the host, to be compared before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::session::Session;
use crate::cgroup_parent::CgroupParent;
use crate::command::retry;
use crate::place::Place;

/// Namespaces are destroyed, and shims exit, behind the answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Things by kind.
#[derive(Debug, Clone)]
pub struct Inventory {
    things: BTreeMap<&'static str, BTreeSet<String>>,
    daemon: u32,
    /// Open in the daemon.
    descriptors: usize,
}

impl Inventory {
    pub fn take(session: &Session) -> Result<Self> {
        Self::of(&session.place, &session.parent, session.daemon_pid()?)
    }

    /// Of a daemon at work in this place, with its pods below this cgroup.
    pub fn of(place: &Place, parent: &CgroupParent, daemon: u32) -> Result<Self> {
        let inside = format!("/proc/{daemon}/mountinfo");
        let (seen, seen_inside) = (mounts("/proc/self/mountinfo")?, mounts(&inside)?);
        let under = place.root().parent().map(Path::to_owned);
        let ours = |(path, _): &&(String, String)| {
            under
                .as_ref()
                .is_some_and(|under| Path::new(path).starts_with(under))
        };
        let paths = |list: &[(String, String)]| -> BTreeSet<String> {
            list.iter()
                .filter(ours)
                .map(|(path, _)| path.clone())
                .collect()
        };
        let mut namespaces = seen.clone();
        namespaces.retain(|(_, kind)| kind == "nsfs");
        let cgroups = parent.directories();
        let (state, root) = (place.state(), place.root());
        let things = BTreeMap::from([
            ("mount", paths(&seen)),
            ("mount inside the daemon's namespace", paths(&seen_inside)),
            ("pinned namespace", paths(&namespaces)),
            (
                "cgroup",
                cgroups
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect(),
            ),
            ("interface", names(Path::new("/sys/class/net"))),
            ("process", processes(place, daemon)?),
            ("snapshot", names(&root.join("snapshots/active"))),
            ("unfinished layer", names(&root.join("snapshots/drafts"))),
            ("unfinished blob", names(&root.join("content/ingest"))),
            ("address", names(&state.join("network/attachments"))),
            ("pod directory", names(&state.join("pods"))),
            ("container directory", names(&state.join("containers"))),
        ]);
        let descriptors = names(&Path::new("/proc").join(daemon.to_string()).join("fd")).len();
        Ok(Self {
            things,
            daemon,
            descriptors,
        })
    }

    /// Waits until nothing is there that was not there before. Descriptors count only while the
    /// daemon is the same.
    pub fn restored(&self, session: &Session) -> Result<()> {
        self.restored_in(|| Self::take(session))
    }

    /// The same, by another way to take it.
    pub fn restored_in(&self, take: impl Fn() -> Result<Self>) -> Result<()> {
        retry(PATIENCE, || {
            let now = take()?;
            let left = now.beyond(self);
            ensure!(left.is_empty(), "left behind: {}", left.join("; "));
            Ok(())
        })
    }

    /// Where the daemon may keep so many connections more.
    pub fn allowing(mut self, connections: usize) -> Self {
        self.descriptors += connections;
        self
    }

    pub fn descriptors(&self) -> usize {
        self.descriptors
    }

    fn beyond(&self, before: &Self) -> Vec<String> {
        let mut left = Vec::new();
        for (kind, things) in &self.things {
            let known = before.things.get(kind);
            for thing in things {
                if !known.is_some_and(|known| known.contains(thing)) {
                    left.push(format!("{kind} {thing}"));
                }
            }
        }
        if self.daemon == before.daemon && self.descriptors > before.descriptors {
            left.push(format!(
                "{} descriptors of the daemon instead of {}",
                self.descriptors, before.descriptors
            ));
        }
        left
    }
}

/// Mount point and file system of each mount in a mountinfo file.
fn mounts(table: &str) -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(table).with_context(|| format!("reading {table}"))?;
    let found = text.lines().filter_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let point = head.split(' ').nth(4)?;
        let kind = tail.split(' ').next()?;
        Some((point.to_owned(), kind.to_owned()))
    });
    Ok(found.collect())
}

/// Names of what is in a directory; none for one that is not there.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// At work in the suite's place or below what is; the dead that nobody has waited for included.
fn processes(place: &Place, daemon: u32) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for pid in place.processes()? {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if u32::try_from(pid).is_ok_and(|pid| pid != daemon) {
            found.insert(format!("{pid} {}", name.trim()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(daemon: u32, descriptors: usize, mounts: &[&str]) -> Inventory {
        let mounts = mounts.iter().map(|path| (*path).to_owned()).collect();
        Inventory {
            things: BTreeMap::from([("mount", mounts)]),
            daemon,
            descriptors,
        }
    }

    #[test]
    fn only_what_was_added_is_left_behind() {
        let before = inventory(1, 10, &["/a", "/b"]);
        assert!(inventory(1, 10, &["/a", "/b"]).beyond(&before).is_empty());
        assert!(inventory(1, 9, &["/b"]).beyond(&before).is_empty());
        assert!(inventory(2, 99, &["/b"]).beyond(&before).is_empty());
        let left = inventory(1, 11, &["/a", "/c"]).beyond(&before);
        assert_eq!(
            left,
            ["mount /c", "11 descriptors of the daemon instead of 10"]
        );
    }

    #[test]
    fn own_mounts_have_a_point_and_a_kind() {
        let mounts = mounts("/proc/self/mountinfo").unwrap();
        assert!(mounts.contains(&("/proc".to_owned(), "proc".to_owned())));
    }
}
