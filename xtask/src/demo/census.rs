//! Counts of everything that a pod takes from its host.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::teller::detail;
use crate::cgroup_parent::CgroupParent;
use crate::place::Place;

const KINDS: [&str; 7] = [
    "processes",
    "mounts",
    "cgroups",
    "network namespaces",
    "interfaces",
    "snapshots",
    "image layers",
];

/// One count of each of [`KINDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census([usize; KINDS.len()]);

impl Census {
    /// Counts what belongs to the place, the daemon itself left out, and the
    /// interfaces of our network namespace.
    pub fn take(place: &Place, parent: &CgroupParent, daemon: u32) -> Result<Self> {
        let processes = place.processes()?;
        let processes = processes
            .iter()
            .filter(|pid| u32::try_from(**pid) != Ok(daemon));
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
        let devices = fs::read_to_string("/proc/self/net/dev").context("reading interfaces")?;
        let snapshots = place.root().join("snapshots");
        Ok(Self([
            processes.count(),
            place.mounts()?.len(),
            parent.directories().len(),
            network_namespaces(&mounts, &place.state()),
            interfaces(&devices, place.bridge().name()),
            entries(&snapshots.join("active"))?,
            entries(&snapshots.join("layers"))?,
        ]))
    }

    /// An error that names the kinds of which this one does not have more: a
    /// count that never moves would prove nothing.
    pub fn has_seen_more_than(&self, before: &Self) -> Result<()> {
        let unmoved: Vec<&str> = (0..KINDS.len())
            .filter(|index| self.0[*index] <= before.0[*index])
            .map(|index| KINDS[index])
            .collect();
        ensure!(
            unmoved.is_empty(),
            "the running pod shows in no count of {}",
            unmoved.join(", ")
        );
        Ok(())
    }

    /// An error that names what there is more or less of than before.
    pub fn is_back_to(&self, before: &Self) -> Result<()> {
        let changed: Vec<String> = (0..KINDS.len())
            .filter(|index| self.0[*index] != before.0[*index])
            .map(|index| {
                let (was, is) = (before.0[index], self.0[index]);
                format!("{}: {was} before, {is} after", KINDS[index])
            })
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        bail!("not as before: {}", changed.join("; "))
    }
}

/// The three censuses side by side.
pub fn print(before: &Census, during: &Census, after: &Census) {
    detail(&format!(
        "{:20}{:>8}{:>8}{:>8}",
        "", "before", "during", "after"
    ));
    for (index, kind) in KINDS.iter().enumerate() {
        let [before, during, after] = [before, during, after].map(|census| census.0[index]);
        detail(&format!("{kind:20}{before:>8}{during:>8}{after:>8}"));
    }
}

/// Network namespaces that are held by a mount below `directory`.
fn network_namespaces(mountinfo: &str, directory: &Path) -> usize {
    let held: BTreeSet<&str> = mountinfo
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(3);
            let (root, mount_point) = (fields.next()?, fields.next()?);
            let ours = root.starts_with("net:[") && Path::new(mount_point).starts_with(directory);
            ours.then_some(root)
        })
        .collect();
    held.len()
}

/// The daemon's bridge belongs to the node and waits for the next pod.
fn interfaces(devices: &str, bridge: &str) -> usize {
    let names = devices.lines().skip(2).filter_map(|l| l.split_once(':'));
    names.filter(|(name, _)| name.trim() != bridge).count()
}

fn entries(directory: &Path) -> Result<usize> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.count()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("listing {}", directory.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_names_what_is_left() {
        let before = Census([0, 0, 0, 0, 1, 0, 0]);
        let during = Census([3, 2, 8, 1, 2, 1, 2]);
        assert!(during.has_seen_more_than(&before).is_ok());
        assert!(before.is_back_to(&before).is_ok());
        let error = Census([0, 2, 0, 0, 1, 0, 0])
            .is_back_to(&before)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "not as before: mounts: 0 before, 2 after"
        );
        let blind = Census([3, 2, 8, 1, 1, 1, 2])
            .has_seen_more_than(&before)
            .unwrap_err();
        assert!(blind.to_string().ends_with("interfaces"));
    }

    #[test]
    fn namespaces_are_counted_once_and_only_ours() {
        let table = "\
40 1 0:4 net:[4026532001] /tmp/bt-1/s/pods/a/ns/net rw - nsfs nsfs rw
41 1 0:4 net:[4026532001] /tmp/bt-1/s/pods/a/ns/net rw - nsfs nsfs rw
42 1 0:4 ipc:[4026532002] /tmp/bt-1/s/pods/a/ns/ipc rw - nsfs nsfs rw
43 1 0:4 net:[4026532003] /run/netns/other rw - nsfs nsfs rw
";
        assert_eq!(network_namespaces(table, Path::new("/tmp/bt-1/s")), 1);
    }

    #[test]
    fn the_bridge_of_the_node_is_no_interface_of_a_pod() {
        let table = "Inter-| Receive\n face |bytes\n    lo: 0 0\nberth0: 0 0\nveth1: 0 0\n";
        assert_eq!(interfaces(table, "berth0"), 2);
    }
}
