//! A file system in a file, that can be made to fail and to hang.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};

use crate::command::{retry, run, stdout};

const SOON: Duration = Duration::from_secs(10);

/// Unmounted with its value; what is left of it goes with the file.
pub struct Disk {
    at: PathBuf,
    /// Name of the loop device, as sysfs has it.
    device: String,
    frozen: bool,
}

impl Disk {
    /// An empty ext4 of this size, mounted at a directory. It turns read-only when it fails.
    pub fn mount(file: &Path, at: &Path, bytes: u64) -> Result<Self> {
        let make = ["mkfs.ext4", "-q", "-F"];
        Self::of(&make, "loop,errors=remount-ro", file, at, bytes)
    }

    /// An empty file system that holds projects to their limits: ext4 or xfs.
    pub fn with_quotas(kind: &str, file: &Path, at: &Path, bytes: u64) -> Result<Self> {
        let make: &[&str] = match kind {
            "ext4" => &[
                "mkfs.ext4",
                "-q",
                "-F",
                "-O",
                "quota,project",
                "-E",
                "quotatype=prjquota",
            ],
            _ => &["mkfs.xfs", "-q", "-f"],
        };
        Self::of(make, "loop,prjquota", file, at, bytes)
    }

    fn of(make: &[&str], options: &str, file: &Path, at: &Path, bytes: u64) -> Result<Self> {
        let sized = File::create(file).and_then(|made| made.set_len(bytes));
        sized.with_context(|| format!("making {}", file.display()))?;
        let [program, arguments @ ..] = make else {
            bail!("no program makes {}", file.display());
        };
        run(Command::new(program).args(arguments).arg(file))?;
        run(Command::new("mount").args(["-o", options]).args([file, at]))?;
        let source = stdout(
            Command::new("findmnt")
                .args(["--noheadings", "--output", "SOURCE"])
                .arg(at),
        )?;
        let device = source.trim().trim_start_matches("/dev/").to_owned();
        Ok(Self {
            at: at.to_owned(),
            device,
            frozen: false,
        })
    }

    /// As if the driver had met an error.
    pub fn fail(&self) -> Result<()> {
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", self.device);
        fs::write(&trigger, "1").with_context(|| format!("writing {trigger}"))?;
        let probe = self.at.join("probe");
        retry(SOON, || {
            ensure!(File::create(&probe).is_err(), "it can still be written to");
            Ok(())
        })
    }

    /// From here on whoever writes waits, in a sleep that no signal ends.
    pub fn freeze(&mut self) -> Result<()> {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.at))?;
        self.frozen = true;
        Ok(())
    }

    pub fn thaw(&mut self) -> Result<()> {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.at))?;
        self.frozen = false;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.frozen
            && let Err(error) = self.thaw()
        {
            eprintln!("{error:#}");
        }
        if let Err(error) = unmount(&self.at, UnmountFlags::DETACH) {
            eprintln!("unmounting {}: {error}", self.at.display());
        }
    }
}
