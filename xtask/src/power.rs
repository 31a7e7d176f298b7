//! A host that loses its power, as far as what runs on it can tell.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cgroup_parent::CgroupParent;
use crate::command::retry;
use crate::place::Place;
use crate::registry::Registry;

const SOON: Duration = Duration::from_secs(20);

/// Ends the processes that work in the place or below the cgroup, but for the registry, which is
/// another host's; then goes what the kernel held for them: mounts, cgroups, interfaces. The
/// runtime directory is left, for those who keep it on a disk.
pub fn cut(place: &Place, parent: &CgroupParent, registry: &Registry) -> Result<()> {
    retry(SOON, || kill_the_rest(place, parent, registry))?;
    for mount in place.mounts()?.iter().rev() {
        unmount(mount, UnmountFlags::DETACH)
            .with_context(|| format!("unmounting {}", mount.display()))?;
    }
    retry(SOON, || parent.clear())?;
    place.bridge().sweep();
    Ok(())
}

/// What a tmpfs loses with the power.
pub fn lose_state(place: &Place) -> Result<()> {
    let state = place.state();
    fs::remove_dir_all(&state)
        .and_then(|()| fs::create_dir(&state))
        .context("losing the runtime directory")
}

/// What a disk loses that had flushed the blobs and records, and none of the layers: files without
/// their content, of a boot before this one.
pub fn lose_layers(place: &Place) -> Result<()> {
    let snapshots = place.root().join("snapshots");
    for mark in entries(&snapshots.join("durable"))? {
        fs::remove_file(&mark).with_context(|| format!("removing {}", mark.display()))?;
    }
    for layer in entries(&snapshots.join("layers"))? {
        let record = layer.join("layer.json");
        let text = fs::read_to_string(&record).context("reading the record of a layer")?;
        let mut value: Value = serde_json::from_str(&text).context("the record of a layer")?;
        if let Some(boot) = value.get_mut("boot_id") {
            *boot = Value::from("the one before");
        }
        fs::write(&record, value.to_string()).context("writing the record of a layer")?;
        empty(&layer.join("fs"))?;
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(directory).and_then(|entries| {
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        paths.collect::<Result<Vec<_>, _>>()
    });
    listed.with_context(|| format!("listing {}", directory.display()))
}

fn empty(directory: &Path) -> Result<()> {
    for path in entries(directory)? {
        let found = fs::symlink_metadata(&path).context("looking at a file of a layer")?;
        if found.is_dir() {
            empty(&path)?;
        } else if found.is_file() && found.nlink() == 1 {
            fs::write(&path, "").with_context(|| format!("emptying {}", path.display()))?;
        }
    }
    Ok(())
}

fn kill_the_rest(place: &Place, parent: &CgroupParent, registry: &Registry) -> Result<()> {
    let registry = i32::try_from(registry.pid())?;
    let mut left = place.processes()?;
    left.retain(|pid| *pid != registry);
    // One whose shim was killed is known by its cgroup alone.
    for cgroup in parent.directories() {
        let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        left.extend(listed.lines().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    for pid in &left {
        if let Some(pid) = Pid::from_raw(*pid) {
            let _gone_already = kill_process(pid, Signal::KILL);
        }
    }
    ensure!(left.is_empty(), "processes {left:?} go on");
    Ok(())
}
