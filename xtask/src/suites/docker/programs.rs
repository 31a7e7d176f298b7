//! What programs do by way of docker-py, the checks in Python.

use std::process::Command;

use anyhow::{Result, anyhow};

use crate::command::output;
use crate::outcome::Tally;
use crate::{tools, workspace};

use super::session::{IMAGE, REPOSITORY, Session};

pub const NAME: &str = "docker-py";

/// Seconds for all of them.
const LIMIT: &str = "240";

pub fn docker_py(session: &mut Session) -> Result<Tally> {
    session.have_daemon()?;
    let program = workspace::root().join("integration/docker-py/check.py");
    let packages = tools::docker_py()?;
    let output = output(
        Command::new("timeout")
            .args(["--kill-after=5", LIMIT, "python3", "-B"])
            .arg(program)
            .args([
                IMAGE,
                &format!("{}/{REPOSITORY}", session.registry.address()),
            ])
            .env("PYTHONPATH", packages)
            .env(
                "DOCKER_HOST",
                format!("unix://{}", session.docker.socket.display()),
            )
            .env("DOCKER_CONFIG", &session.docker.config),
    )?;
    let mut tally = Tally::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (name, result) = judged(line);
        tally.check(&format!("{NAME}: {name}"), result);
    }
    tally.check(
        &format!("{NAME}: every check is made"),
        match output.status.success() {
            true => Ok(()),
            false => Err(anyhow!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        },
    );
    Ok(tally)
}

/// `ok NAME` or `FAILED NAME: reason`.
fn judged(line: &str) -> (&str, Result<()>) {
    if let Some(name) = line.strip_prefix("ok ") {
        return (name, Ok(()));
    }
    let failed = line
        .strip_prefix("FAILED ")
        .and_then(|rest| rest.split_once(": "));
    match failed {
        Some((name, reason)) => (name, Err(anyhow!("{reason}"))),
        None => (line, Err(anyhow!("this is no verdict"))),
    }
}
