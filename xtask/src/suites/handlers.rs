//! Runtime handlers of other projects, as suites configure them: containerd's shim with runc, and
//! with crun.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::which;
use crate::place::Place;
use crate::tools::{self, Tool};

/// Their names.
pub const NAMES: [&str; 2] = ["runc", "crun"];

/// The unified tree of a hybrid layout.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// Adds both to what the next daemon of a place is configured with.
pub fn configure(place: &Place) -> Result<()> {
    let shim = tools::path(Tool::ContainerdShim)?;
    let runc = tools::path(Tool::Runc)?;
    let crun = crun(&place.scratch())?;
    // The shim is known by the name that installations give it.
    let named = place.scratch().join("containerd-shim-runc-v2");
    symlink(&shim, &named).context("naming the shim")?;
    let mut text = String::new();
    for (name, binary) in NAMES.into_iter().zip([runc, crun]) {
        text.push_str(&handler(name, &named, &binary));
    }
    let file = place
        .config()
        .with_extension("toml.d")
        .join("handlers.toml");
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

/// crun refuses a hybrid layout whose unified tree has controllers. There it is run where that tree
/// is not mounted; all other mounts stay those of the host, also for what it mounts itself.
fn crun(scratch: &Path) -> Result<PathBuf> {
    let crun = which("crun").context("crun is not installed")?;
    let controllers = fs::read_to_string(Path::new(UNIFIED).join("cgroup.controllers"));
    if controllers.unwrap_or_default().trim().is_empty() {
        return Ok(crun);
    }
    let path = scratch.join("crun");
    let text = format!(
        "#!/bin/sh\nexec unshare --mount --propagation unchanged sh -c '\
         mount --make-private {} && umount {UNIFIED} && exec \"$0\" \"$@\"' {} \"$@\"\n",
        Path::new(UNIFIED)
            .parent()
            .unwrap_or(Path::new("/"))
            .display(),
        crun.display()
    );
    fs::write(&path, text)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

fn handler(name: &str, shim: &Path, binary: &Path) -> String {
    format!(
        "[runtimes.{name}]\nshim = {:?}\n[runtimes.{name}.options]\nBinaryName = {:?}\n",
        shim.display().to_string(),
        binary.display().to_string(),
    )
}
