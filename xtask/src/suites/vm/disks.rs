//! Empty disks of the machine: sparse files of this host, gone with the machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{run, which};

#[derive(Debug)]
struct Disk {
    bytes: u64,
    /// Features of ext4 beside the usual ones, as `mkfs.ext4 -O` takes them.
    features: &'static str,
    /// Where the machine mounts it, and how.
    directory: &'static str,
    options: &'static str,
}

/// `vda`, `vdb` and so on in the machine, mounted in this order.
const DISKS: [Disk; 2] = [
    // Where containers live: tmpfs has no mapped owners before Linux 6.3 and no attributes of users
    // before 6.6.
    Disk {
        bytes: 4 << 30,
        features: "",
        directory: "/tmp",
        options: "rw",
    },
    Disk {
        bytes: 1 << 30,
        features: "quota,project",
        directory: QUOTAS,
        options: "prjquota",
    },
];

/// Where the space that projects take is counted and limited.
pub const QUOTAS: &str = "/quotas";

/// Files in `place`, in the machine's order.
pub fn make(place: &Path) -> Result<Vec<PathBuf>> {
    let program = which("mkfs.ext4").context("mkfs.ext4 is not installed")?;
    let made = DISKS.iter().enumerate().map(|(number, disk)| {
        let path = place.join(format!("disk-{number}"));
        File::create(&path)
            .and_then(|file| file.set_len(disk.bytes))
            .with_context(|| format!("making {}", path.display()))?;
        let mut command = Command::new(&program);
        command.args(["-q", "-F"]);
        if !disk.features.is_empty() {
            command.args(["-O", disk.features]);
        }
        run(command.arg(&path))?;
        Ok(path)
    });
    made.collect()
}

/// As the machine is told: device, directory and options of each.
pub fn setting() -> String {
    let disks: Vec<String> = DISKS
        .iter()
        .zip('a'..)
        .map(|(disk, letter)| format!("vd{letter}:{}:{}", disk.directory, disk.options))
        .collect();
    disks.join(" ")
}
