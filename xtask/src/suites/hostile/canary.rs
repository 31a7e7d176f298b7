//! What must be the same before and after: a tree, the host's own files and knobs, our programs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::workspace;

/// Files of the host whose inode says whether somebody wrote to them.
const FILES: [&str; 4] = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/hostname"];

/// Knobs of the kernel that an attacker likes.
const KNOBS: [&str; 7] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/net/ipv4/conf/lo/route_localnet",
];

pub struct Canary {
    path: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    /// Makes the tree that layers try to reach: a file `f` and a directory `d` with `g` in it.
    pub fn plant(path: &Path) -> Result<Self> {
        fs::create_dir_all(path.join("d/e"))
            .and_then(|()| fs::write(path.join("f"), "untouched"))
            .and_then(|()| fs::write(path.join("d/g"), "untouched"))
            .and_then(|()| symlink("f", path.join("l")))
            .context("making a canary")?;
        let path = path.to_owned();
        let before = picture(&path)?;
        Ok(Self { path, before })
    }

    pub fn path(&self) -> String {
        self.path.display().to_string()
    }

    pub fn unharmed(&self) -> Result<()> {
        let now = picture(&self.path)?;
        for (path, was) in &self.before {
            let is = now.get(path);
            ensure!(is == Some(was), "{} was changed: {is:?}", path.display());
        }
        let more = now.keys().find(|path| !self.before.contains_key(*path));
        ensure!(more.is_none(), "{more:?} was made");
        Ok(())
    }
}

fn picture(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut seen = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let told = describe(&path)?;
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            for entry in fs::read_dir(&path).context("listing the canary")? {
                waiting.push(entry.context("listing the canary")?.path());
            }
        }
        seen.insert(path, told);
    }
    let programs = fs::read_dir(workspace::artefacts()).context("listing our programs")?;
    let programs = programs.flatten().map(|entry| entry.path());
    for path in FILES.iter().map(PathBuf::from).chain(programs) {
        if path.is_file() {
            seen.insert(path.clone(), describe(&path)?);
        }
    }
    for knob in KNOBS {
        // Not every kernel has all of them.
        let value = fs::read_to_string(knob).unwrap_or_default();
        seen.insert(PathBuf::from(knob), value);
    }
    Ok(seen)
}

/// The change time moves with whatever is done to a file. A directory's entries are looked at.
fn describe(path: &Path) -> Result<String> {
    let found =
        fs::symlink_metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    let kind = found.file_type();
    Ok(format!(
        "{:o} {}:{} links {} inode {} changed {}.{} {:?} {}",
        found.mode(),
        found.uid(),
        found.gid(),
        found.nlink(),
        found.ino(),
        found.ctime(),
        found.ctime_nsec(),
        fs::read_link(path).ok(),
        kind.is_fifo() || kind.is_char_device(),
    ))
}
