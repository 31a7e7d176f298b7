//! criu, built from the source of Debian's present release: what older releases package does not
//! know newer kernels.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{run, stdout};
use crate::workspace;

const VERSION: &str = "4.1.1";
const SHA256: &str = "f80a66cb3726bb2116266d4759ce3bcbfab7abdb6b6d430bf20dd41911717afe";
const POOL: &str = "http://deb.debian.org/debian/pool/main/c/criu";

/// A directory to stand first in `PATH`, with nothing but criu in it. Built once, in about a
/// minute.
pub fn directory() -> Result<PathBuf> {
    let directory = workspace::tools()?.join(format!("criu-{VERSION}"));
    if directory.join("criu").exists() {
        return Ok(directory);
    }
    println!("building {}", directory.display());
    let parent = directory.parent().context("tools directory")?;
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let scratch = tempfile::tempdir_in(parent).context("creating a build directory")?;
    let source = scratch.path();
    let archive = source.join("criu.tar.xz");
    let address = format!("{POOL}/criu_{VERSION}.orig.tar.xz");
    let fetch = ["--silent", "--show-error", "--fail", "--max-time", "120"];
    run(Command::new("curl")
        .args(fetch)
        .arg("--output")
        .arg(&archive)
        .arg(&address))
    .with_context(|| format!("fetching {address}"))?;
    let sum = stdout(Command::new("sha256sum").arg(&archive))?;
    ensure!(
        sum.split_whitespace().next() == Some(SHA256),
        "{address} is not what it was: {}",
        sum.trim()
    );
    run(Command::new("tar")
        .args(["--extract", "--strip-components=1", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(source))?;
    let log = fs::File::create(workspace::logs()?.join("criu-build.log"))?;
    run(Command::new("make")
        .current_dir(source)
        .args(["--jobs=2", "criu"])
        .stdout(log.try_clone()?)
        .stderr(log))
    .context("building criu, see criu-build.log")?;
    let fresh = source.join("placed");
    fs::create_dir(&fresh)?;
    fs::rename(source.join("criu/criu"), fresh.join("criu")).context("finding what was built")?;
    fs::rename(&fresh, &directory).with_context(|| format!("placing {}", directory.display()))?;
    Ok(directory)
}

/// `PATH` with criu first, or why there is none that works here.
pub fn path() -> Result<String, String> {
    let program = program()?;
    let directory = program.parent().unwrap_or(&program).display();
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(format!("{directory}:{path}"))
}

/// The program, or why there is none that works here.
pub fn program() -> Result<PathBuf, String> {
    let directory = directory().map_err(|error| format!("{error:#}"))?;
    let program = directory.join("criu");
    let check = Command::new(&program).arg("check").output();
    let check = check.map_err(|error| format!("criu: {error}"))?;
    if !check.status.success() {
        let said = String::from_utf8_lossy(&check.stderr);
        return Err(format!("criu finds this kernel unfit: {}", said.trim()));
    }
    Ok(program)
}
