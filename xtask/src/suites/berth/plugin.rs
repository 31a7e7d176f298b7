//! Steps that concern the stock client with this program as its plugin.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use super::builds::{context, unlikely, with_bytes};
use super::{Step, berth, contains, same};
use crate::command::{output, which};
use crate::suites::docker::session::Session;

pub const STEPS: &[(&str, Step)] = &[
    (
        "docker finds buildx, and what it does not do is told",
        found,
    ),
    (
        "docker build and docker buildx make the image of the classic builder",
        same_image,
    ),
    ("docker build lends a secret, which stays nowhere", secret),
];

fn config(session: &Session) -> PathBuf {
    session.place.scratch().join("plugin-config")
}

/// The stock client. `buildkit` is what `DOCKER_BUILDKIT` says.
fn docker(session: &Session, buildkit: &str, arguments: &[&str]) -> Result<Output> {
    let program = which("docker").context("docker is not installed")?;
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "90"])
        .arg(program)
        .arg("--host")
        .arg(format!("unix://{}", session.docker.socket.display()))
        .args(arguments)
        .env("DOCKER_CONFIG", config(session))
        .env("DOCKER_BUILDKIT", buildkit)
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_CONTEXT");
    output(&mut command)
}

/// Standard output of what has to succeed.
fn done(session: &Session, buildkit: &str, arguments: &[&str]) -> Result<String> {
    let output = docker(session, buildkit, arguments)?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "docker {arguments:?}: {err}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What the stock client says of what it does without a plugin.
pub fn classic(session: &Session, arguments: &[&str]) -> Result<String> {
    done(session, "0", arguments)
}

fn found(session: &mut Session) -> Result<()> {
    let plugins = config(session).join("cli-plugins").display().to_string();
    let link = berth(session, &["docker-plugins", "install", &plugins])?;
    ensure!(
        fs::symlink_metadata(&link)?.is_symlink(),
        "{link} is no link"
    );
    contains(
        "version",
        &done(session, "1", &["buildx", "version"])?,
        "berth/buildx ",
    )?;
    let listed = done(session, "1", &["buildx", "ls"])?;
    contains("ls", &listed, "default*")?;
    contains("ls", &listed, "running")?;
    let refused = docker(session, "1", &["buildx", "create"])?;
    same("exit code", refused.status.code(), Some(1))?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    contains("create", &said, "there is one builder")
}

fn same_image(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nCOPY . /all\nRUN find /all -type f | sort > /found\n");
    let files = [
        ("Dockerfile", text.as_str()),
        (".dockerignore", "*.log\n"),
        ("a", "a\n"),
        ("x.log", "left out\n"),
    ];
    let directory = context(session, "plugin", &files)?;
    let path = directory.display().to_string();
    let metadata = directory
        .with_file_name("plugin.json")
        .display()
        .to_string();
    done(
        session,
        "0",
        &["build", "-q", "-t", "plugin/classic:1", &path],
    )?;
    done(session, "1", &["build", "-t", "plugin/build:1", &path])?;
    let line = [
        "buildx",
        "build",
        "--load",
        "-t",
        "plugin/buildx:1",
        "--metadata-file",
    ];
    done(session, "1", &[&line[..], &[&metadata, &path]].concat())?;
    let quiet = done(session, "1", &["build", "-q", &path])?;
    for name in ["classic", "build", "buildx"] {
        let name = format!("plugin/{name}:1");
        let id = berth(session, &["inspect", "--format", "{{.Id}}", &name])?;
        same(&name, id, quiet.clone())?;
    }
    contains("metadata", &fs::read_to_string(&metadata)?, &quiet)?;
    let copied = berth(session, &["run", "--rm", "plugin/build:1", "cat", "/found"])?;
    ensure!(
        !copied.contains("x.log"),
        "what .dockerignore names: {copied}"
    );
    Ok(())
}

fn secret(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base}\nRUN --mount=type=secret,id=token,required=true wc -c < /run/secrets/token > /size\n"
    );
    let directory = context(session, "plugin-secret", &[("Dockerfile", &text)])?;
    let token = unlikely("plugin-token");
    let file = session.place.scratch().join("plugin-token");
    fs::write(&file, &token)?;
    let path = directory.display().to_string();
    let by_file = format!("id=token,src={}", file.display());
    let line = [
        "build",
        "-t",
        "plugin/secret:1",
        "--secret",
        &by_file,
        &path,
    ];
    done(session, "1", &line)?;
    let size = berth(session, &["run", "--rm", "plugin/secret:1", "cat", "/size"])?;
    same("what the command saw", size, token.len().to_string())?;
    for place in [session.place.root(), session.place.state()] {
        same(
            &format!("in {place:?}"),
            with_bytes(&place, &token)?,
            Vec::new(),
        )?;
    }
    Ok(())
}
