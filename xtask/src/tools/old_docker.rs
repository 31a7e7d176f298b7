//! The docker CLI of Debian 12, from its package and without installing it: a present one may stand
//! in `PATH`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{run, stdout};
use crate::workspace;

const PACKAGE: &str = "docker.io";
const GENERATION: &str = "20.10.";

/// The program. Fetched once; where the release's package is another generation there is none.
pub fn old_docker() -> Result<PathBuf> {
    let kept = workspace::tools()?.join("docker-20.10");
    let program = kept.join("docker");
    if program.exists() {
        return Ok(program);
    }
    let parent = kept.parent().context("tools directory")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let scratch = tempfile::tempdir_in(parent).context("creating a directory for a package")?;
    run(Command::new("apt-get")
        .current_dir(scratch.path())
        // Its own user cannot write here.
        .args(["-o", "APT::Sandbox::User=root", "download", "-qq", PACKAGE]))
    .context("fetching the package docker.io")?;
    let packages = fs::read_dir(scratch.path()).context("looking for the package")?;
    let package = packages.flatten().next().context("no package came")?;
    let files = scratch.path().join("files");
    run(Command::new("dpkg-deb")
        .arg("-x")
        .arg(package.path())
        .arg(&files))
    .context("unpacking the package docker.io")?;
    let found = files.join("usr/bin/docker");
    let version = stdout(Command::new(&found).arg("--version"))?;
    ensure!(
        version.contains(GENERATION),
        "the docker CLI of this release is no old one: {}",
        version.trim()
    );
    fs::create_dir_all(&kept).with_context(|| format!("creating {}", kept.display()))?;
    fs::rename(&found, &program).context("keeping the old docker CLI")?;
    Ok(program)
}
