//! The cgroup below which the pods of a demo or suite are, in whatever hierarchies the host has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::retry;

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup of the first level, named after this process, with one directory in each hierarchy.
/// What is empty of it goes with the value.
#[derive(Debug)]
pub struct CgroupParent {
    name: String,
}

impl CgroupParent {
    /// Nothing is made: the daemon makes the parents that it lacks. Where systemd has the say it is
    /// a slice of the first level: a dash would be another one.
    pub fn new(purpose: &str) -> Self {
        let by_systemd = Path::new("/run/systemd/private").exists()
            && Path::new(ROOT).join("cgroup.controllers").exists();
        Self {
            name: match by_systemd {
                true => format!("berth{purpose}{}.slice", process::id()),
                false => format!("berth-{purpose}-{}", process::id()),
            },
        }
    }

    /// As requests name it.
    pub fn request(&self) -> String {
        match self.name.ends_with(".slice") {
            true => self.name.clone(),
            false => format!("/{}", self.name),
        }
    }

    /// Makes it in every hierarchy, for a client that wants to find it there.
    pub fn make(&self) -> Result<()> {
        let tops = match Path::new(ROOT).join("cgroup.controllers").exists() {
            true => vec![Path::new(ROOT).join(&self.name)],
            false => self.places(),
        };
        for top in tops {
            fs::create_dir_all(&top).with_context(|| format!("creating {}", top.display()))?;
        }
        Ok(())
    }

    /// Kills what still runs below it, frozen or not.
    pub fn kill(&self) {
        for directory in self.directories() {
            // Each is a file of one of both versions.
            for (file, word) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                let file = directory.join(file);
                if file.exists() {
                    let _gone_already = fs::write(file, word);
                }
            }
            let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines().filter_map(|line| line.parse().ok()) {
                if let Some(pid) = Pid::from_raw(pid) {
                    let _gone_already = kill_process(pid, Signal::KILL);
                }
            }
        }
    }

    /// Removes what is below it.
    pub fn clear(&self) -> Result<()> {
        for path in self.directories().iter().rev() {
            fs::remove_dir(path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes it with what is empty below it; the kernel keeps what is in use.
    pub fn remove(&self) -> Result<()> {
        self.clear()?;
        for top in self.tops() {
            fs::remove_dir(&top).with_context(|| format!("removing {}", top.display()))?;
        }
        Ok(())
    }

    /// Directories below it, each parent before its children.
    pub fn directories(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for top in self.tops() {
            collect(&top, &mut found);
        }
        found
    }

    /// Pids in the cgroup of one container; where hierarchies disagree, all of them.
    pub fn pids(&self, container: &str) -> Result<Vec<i32>> {
        let mut pids: Vec<i32> = Vec::new();
        for top in self.tops() {
            let path = match self.name.ends_with(".slice") {
                true => top.join(format!("berth-{container}.scope")),
                false => top.join(container),
            };
            let path = path.join("cgroup.procs");
            // A container is not in hierarchies that limit nothing.
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            for line in text.lines() {
                let pid = line
                    .parse()
                    .with_context(|| format!("reading {}", path.display()))?;
                if !pids.contains(&pid) {
                    pids.push(pid);
                }
            }
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// The number in a control file of the cgroup `path`, named for either version.
    pub fn value(&self, path: &str, v1: &str, v2: &str) -> Result<i64> {
        match self.v1_value(path, v1)? {
            Some(value) => Ok(value),
            None => self
                .v1_value(path, v2)?
                .with_context(|| format!("{path} has neither {v1} nor {v2}")),
        }
    }

    /// The same, where the host may have no such file.
    pub fn v1_value(&self, path: &str, file: &str) -> Result<Option<i64>> {
        let below = path
            .trim_start_matches(&self.request())
            .trim_start_matches('/');
        for top in self.tops() {
            let file = top.join(below).join(file);
            if let Ok(text) = fs::read_to_string(&file) {
                let number = text.trim().parse();
                return number
                    .map(Some)
                    .with_context(|| format!("reading {}", file.display()));
            }
        }
        Ok(None)
    }

    /// Its directories: right below the root and below that of each hierarchy.
    fn tops(&self) -> Vec<PathBuf> {
        let mut tops = self.places();
        tops.push(Path::new(ROOT).join(&self.name));
        tops.retain(|top| top.is_dir());
        tops
    }

    /// Where it is, or would be, below the root of each hierarchy.
    fn places(&self) -> Vec<PathBuf> {
        let mut places = Vec::new();
        for hierarchy in fs::read_dir(ROOT).into_iter().flatten().flatten() {
            // Some hierarchies have a second name.
            let is_link = hierarchy.file_type().is_ok_and(|kind| kind.is_symlink());
            if !is_link && !hierarchy.path().ends_with(&self.name) {
                places.push(hierarchy.path().join(&self.name));
            }
        }
        places
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

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            collect(&entry.path(), found);
        }
    }
}
