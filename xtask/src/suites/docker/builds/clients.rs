//! Every client gives the same image for the same input; and builds that are cancelled.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{SOON, context, ensure_that, id};
use crate::command::{output, retry, run, which};
use crate::suites::docker::session::Session;
use crate::suites::docker::{contains, same};
use crate::{tools, workspace};

fn checked(command: &mut Command) -> Result<()> {
    let output = output(command.env_remove("DOCKER_CONTEXT"))?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {err}",
        output.status
    );
    Ok(())
}

/// The image's id by each client, in a fixed order.
fn by_all(session: &Session, directory: &Path) -> Result<Vec<String>> {
    let path = directory.display().to_string();
    let socket = format!("unix://{}", session.docker.socket.display());
    session
        .docker
        .text(&["build", "-t", "by/docker:1", &path])?;

    let script = "import docker, sys\n\
         docker.from_env(timeout=60).images.build(path=sys.argv[1], tag='by/python:1')\n";
    checked(
        Command::new("timeout")
            .args(["90", "python3", "-B", "-c", script, &path])
            .env("PYTHONPATH", tools::docker_py()?)
            .env("DOCKER_HOST", &socket)
            .env("DOCKER_CONFIG", &session.docker.config),
    )?;

    let compose = which("docker-compose").context("docker-compose is not installed")?;
    let file = directory.with_file_name("clients.yml");
    let text = format!(
        "version: \"2.4\"\nservices:\n  app:\n    image: by/compose:1\n    build: {{context: {path:?}}}\n"
    );
    fs::write(&file, text).context("writing the compose file")?;
    checked(
        Command::new("timeout")
            .arg("90")
            .arg(compose)
            .arg("-f")
            .arg(&file)
            .args(["-p", "clients", "build"])
            .env("DOCKER_HOST", &socket)
            .env("DOCKER_CONFIG", &session.docker.config)
            .env("DOCKER_BUILDKIT", "0")
            .env("COMPOSE_DOCKER_CLI_BUILD", "0"),
    )?;

    let berth = workspace::artefacts().join("berth");
    checked(
        Command::new("timeout")
            .arg("90")
            .arg(berth)
            .args(["--host", &socket])
            .args(["build", "-t", "by/berth:1", &path])
            .env("DOCKER_CONFIG", &session.docker.config),
    )?;
    ["docker", "python", "compose", "berth"]
        .iter()
        .map(|client| id(session, &format!("by/{client}:1")))
        .collect()
}

pub fn same_image(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base} AS build\nWORKDIR /src\nCOPY . .\nRUN mkdir /out && cat dir/* > /out/all\n\
         FROM {base}\nENV A=1\nCOPY --from=build /out /srv\nLABEL x=y\nCMD [\"cat\", \"/srv/all\"]\n"
    );
    let files = [
        ("Dockerfile", text.as_str()),
        (".dockerignore", "*.log\n"),
        ("dir/a", "a\n"),
        ("dir/b", "b\n"),
        ("x.log", "left out"),
    ];
    let directory = context(session, &files)?;
    let ids = by_all(session, &directory)?;
    let first = ids.first().context("an id")?;
    ensure!(
        ids.iter().all(|id| id == first),
        "docker, docker-py, compose and berth: {ids:?}"
    );
    Ok(())
}

pub fn cancelled(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nRUN echo begun; sleep 27182\n");
    let directory = context(session, &[("Dockerfile", &text)])?;
    let tar = directory.with_file_name("cancelled.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&directory)
        .arg("-cf")
        .arg(&tar)
        .arg("."))?;
    let mut child = Command::new("curl")
        .args(["-sS", "-N", "--max-time", "60", "--unix-socket"])
        .arg(&session.docker.socket)
        .args(["-H", "Content-Type: application/x-tar", "--data-binary"])
        .arg(format!("@{}", tar.display()))
        .arg("http://docker/build?buildid=mine&t=built/cancelled:1")
        .stdout(Stdio::piped())
        .spawn()
        .context("starting curl")?;
    let mut said = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    while !line.contains("begun\\n") {
        line.clear();
        ensure!(said.read_line(&mut line)? > 0, "it ended before it began");
    }
    let other = session
        .docker
        .request("POST", "/build/cancel?id=another", &[])?;
    same("of another", other.status, 200)?;
    let unnamed = session.docker.request("POST", "/build/cancel", &[])?;
    same("of none", unnamed.status, 400)?;
    let answer = session
        .docker
        .request("POST", "/build/cancel?id=mine", &[])?;
    same("status", answer.status, 200)?;
    let mut rest = String::new();
    said.read_to_string(&mut rest)?;
    child.wait()?;
    contains("the last object", &rest, "the build was cancelled")?;
    retry(SOON, || {
        let sleeping = output(Command::new("pgrep").args(["-xf", "sleep 27182"]))?;
        ensure_that(!sleeping.status.success(), "the command has ended")
    })?;
    let listed = session.docker.text(&["images", "-q", "built/cancelled"])?;
    same("images", listed, String::new())
}
