//! One validation program behind one runtime.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::tap::Outcome;
use crate::command::wait;

/// The longest wait for a container that sleeps half a minute.
const LIMIT: Duration = Duration::from_secs(90);

#[derive(Debug)]
pub struct Program {
    directory: PathBuf,
    name: String,
    runtime: PathBuf,
}

impl Program {
    pub fn new(directory: &Path, name: &str, runtime: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
            runtime: runtime.to_owned(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn run(&self) -> Result<Outcome> {
        let beside = self.runtime.parent().context("a runtime in no directory")?;
        let place = tempfile::tempdir_in(beside).context("making a place for bundles")?;
        let (stdout, stderr) = (place.path().join("stdout"), place.path().join("stderr"));
        let file = |path: &Path| {
            File::create(path).with_context(|| format!("creating {}", path.display()))
        };
        // A container without a mount namespace mounts where its runtime does.
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(self.directory.join(&self.name))
            .current_dir(&self.directory)
            .env("RUNTIME", &self.runtime)
            .env("TMPDIR", place.path())
            .stdin(Stdio::null())
            .stdout(file(&stdout)?)
            .stderr(file(&stderr)?)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        let status = wait(&mut child, LIMIT)?;
        if status.is_none() {
            child.kill().context("killing a program that hangs")?;
            child.wait().context("waiting for a killed program")?;
        }
        let read = |path: &Path| {
            fs::read(path)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .with_context(|| format!("reading {}", path.display()))
        };
        let ended_well = status.is_some_and(|status| status.success());
        Ok(Outcome::parse(ended_well, &read(&stdout)?, &read(&stderr)?))
    }
}
