//! A host that loses its power, as far as what runs on it can tell.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

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
