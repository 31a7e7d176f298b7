//! What no container may reach: looked at before a hostile case and after it.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Settings of the whole kernel that have been the prize of past escapes, and one that a write
/// without a target would hit.
const SETTINGS: [&str; 6] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/net/ipv4/ip_forward",
];

/// In the tree of the canary, for whoever looks out of a container.
pub const FILE: &str = "canary-file";

/// A tree on the host, kernel settings, and this program.
pub struct Canary {
    tree: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    pub fn new() -> Result<Self> {
        let tree = tempfile::tempdir()?;
        fs::create_dir_all(tree.path().join("within/deep"))?;
        fs::write(tree.path().join(FILE), "untouched")?;
        fs::write(tree.path().join("within/deep/file"), "untouched")?;
        let before = look(tree.path())?;
        Ok(Self { tree, before })
    }

    pub fn path(&self) -> &Path {
        self.tree.path()
    }

    /// From any depth, for a link that climbs.
    pub fn climbing(&self) -> PathBuf {
        let up = Path::new("../../../../../../../../../../..");
        up.join(self.path().strip_prefix("/").unwrap_or(self.path()))
    }

    pub fn check(&self) -> Result<()> {
        let after = look(self.path())?;
        for (path, before) in &self.before {
            let after = after.get(path);
            ensure!(
                after == Some(before),
                "{} was {before}, is {after:?}",
                path.display()
            );
        }
        ensure!(after.len() == self.before.len(), "files were added");
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let tree = self.path().to_str().context("not UTF-8")?;
        ensure!(!mounts.contains(tree), "something is mounted on the canary");
        Ok(())
    }
}

fn look(tree: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut seen = BTreeMap::new();
    let mut waiting = vec![tree.to_owned()];
    while let Some(path) = waiting.pop() {
        let mut said = told(&path)?;
        // What was made here by mistake may be a link out, or a device without an end.
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        } else if kind.is_file() {
            said.push_str(&fs::read_to_string(&path)?);
        }
        seen.insert(path, said);
    }
    for setting in SETTINGS {
        let value = fs::read_to_string(setting).unwrap_or_default();
        seen.insert(setting.into(), value);
    }
    let own = std::env::current_exe()?;
    let said = told(&own)?;
    seen.insert(own, said);
    Ok(seen)
}

fn told(path: &Path) -> Result<String> {
    let meta = fs::symlink_metadata(path)?;
    let (mode, uid, gid, size) = (meta.mode(), meta.uid(), meta.gid(), meta.size());
    let (inode, mtime, ctime) = (meta.ino(), meta.mtime_nsec(), meta.ctime_nsec());
    Ok(format!(
        "{mode:o} {uid} {gid} {size} {inode} {mtime} {ctime} "
    ))
}
