//! Python packages, of pinned versions, in directories of their own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run;
use crate::workspace;

/// A directory for `PYTHONPATH` with docker-py and what it needs. An installation that breaks off
/// leaves nothing behind under the final name.
pub fn docker_py() -> Result<PathBuf> {
    let requirements = workspace::root().join("integration/docker-py/requirements.txt");
    let pinned = fs::read_to_string(&requirements)
        .with_context(|| format!("reading {}", requirements.display()))?;
    let version = pinned
        .lines()
        .find_map(|line| line.strip_prefix("docker=="))
        .context("docker-py has no pinned version")?;
    let tools = workspace::tools()?;
    let path = tools.join(format!("docker-py-{version}"));
    if path.exists() {
        return Ok(path);
    }
    println!("installing {}", path.display());
    fs::create_dir_all(&tools).with_context(|| format!("creating {}", tools.display()))?;
    let scratch = tempfile::tempdir_in(&tools).context("creating a directory")?;
    let fresh = scratch.path().join("packages");
    run(Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-cache-dir"])
        .args(["--root-user-action=ignore", "--disable-pip-version-check"])
        .arg("--target")
        .arg(&fresh)
        .arg("--requirement")
        .arg(&requirements))
    .context("installing docker-py")?;
    fs::rename(&fresh, &path).with_context(|| format!("placing {}", path.display()))?;
    Ok(path)
}
