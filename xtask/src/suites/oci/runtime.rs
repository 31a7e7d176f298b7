//! A runtime with runc's command line, and bundles for it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::output;

#[derive(Debug, Clone)]
pub struct Runtime {
    pub name: &'static str,
    pub program: PathBuf,
    /// Run where the unified tree of a hybrid host is not mounted.
    pub without_unified: bool,
    /// Lines that say nothing, because this runtime alone has them so.
    pub own_ways: fn(&str) -> bool,
}

/// The unified tree of a hybrid host.
pub const UNIFIED: &str = "/sys/fs/cgroup/unified";

const WITHOUT_UNIFIED: &str = "umount -l /sys/fs/cgroup/unified && exec \"$@\"";

/// What came of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub status: Option<i32>,
    pub lines: Vec<String>,
    pub complaint: String,
}

impl Runtime {
    pub fn command(&self, root: &Path) -> Command {
        let mut command = if self.without_unified {
            let mut command = Command::new("unshare");
            let words = [
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                WITHOUT_UNIFIED,
                "sh",
            ];
            command.args(words).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.arg("--root").arg(root.join(self.name));
        command
    }

    /// Runs the specification in a fresh bundle.
    pub fn run(&self, root: &Path, spec: &Value, probe: &Path) -> Result<Seen> {
        let bundle = root.join("bundle");
        make_bundle(&bundle, spec, probe)?;
        let mut command = self.command(root);
        command
            .arg("run")
            .arg("--bundle")
            .arg(&bundle)
            .arg("probed");
        let output = output(&mut command)?;
        fs::remove_dir_all(&bundle).context("removing a bundle")?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(Seen {
            status: output.status.code(),
            lines: text.lines().map(str::to_owned).collect(),
            complaint: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// The probe alone, and a few directories that an image would have.
pub fn make_bundle(bundle: &Path, spec: &Value, probe: &Path) -> Result<()> {
    let make = || -> std::io::Result<()> {
        for directory in ["proc", "sys", "dev", "tmp", "etc", "real"] {
            fs::create_dir_all(bundle.join("rootfs").join(directory))?;
        }
        fs::create_dir_all(bundle.join("source"))?;
        fs::write(bundle.join("source/file"), "bound")?;
        symlink("/real", bundle.join("rootfs/link"))?;
        fs::hard_link(probe, bundle.join("rootfs/probe"))
            .or_else(|_| fs::copy(probe, bundle.join("rootfs/probe")).map(drop))?;
        fs::write(bundle.join("config.json"), spec.to_string())
    };
    make().with_context(|| format!("making {}", bundle.display()))
}
