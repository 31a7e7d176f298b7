//! The cgroup below which the demo's pods are, as a kubelet would name it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::retry;

/// Named after this process. Removed with its value, in every hierarchy.
pub struct CgroupParent {
    name: String,
    hierarchies: Vec<PathBuf>,
}

impl CgroupParent {
    /// Nothing is made: the daemon makes the parents that it lacks.
    pub fn new() -> Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
        Ok(Self {
            name: format!("berth-demo-{}", process::id()),
            hierarchies: hierarchies(&table),
        })
    }

    /// As it stands in a request.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    /// Directories below it in all hierarchies, without itself.
    pub fn below(&self) -> Result<usize> {
        let mut count = 0;
        for hierarchy in &self.hierarchies {
            count += tree(&hierarchy.join(&self.name))?.len().saturating_sub(1);
        }
        Ok(count)
    }

    /// Removes it with what is empty below it; the kernel keeps what is in use.
    pub fn remove(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            for directory in tree(&hierarchy.join(&self.name))?.iter().rev() {
                fs::remove_dir(directory)
                    .with_context(|| format!("removing cgroup {}", directory.display()))?;
            }
        }
        Ok(())
    }
}

impl Drop for CgroupParent {
    fn drop(&mut self) {
        // What was killed a moment ago may not have left yet.
        if let Err(error) = retry(Duration::from_secs(2), || self.remove()) {
            eprintln!("{error:#}");
        }
    }
}

/// Mount points of cgroup hierarchies, each once.
fn hierarchies(table: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter(|line| line.contains(" - cgroup ") || line.contains(" - cgroup2 "))
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The directory and all below it, each before its children; empty where there
/// is none.
fn tree(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Cgroups may go while we look.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("listing {}", directory.display()));
            }
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
        found.push(directory);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let table = "\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 30 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
";
        let expected = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        assert_eq!(hierarchies(table), expected);
    }

    #[test]
    fn parents_come_before_their_children() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("a");
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let found = tree(&root).unwrap();
        assert_eq!(found.len(), 4);
        for (index, path) in found.iter().enumerate().skip(1) {
            assert!(
                found[..index]
                    .iter()
                    .any(|known| Some(known.as_path()) == path.parent())
            );
        }
        assert!(tree(&directory.path().join("none")).unwrap().is_empty());
    }
}
