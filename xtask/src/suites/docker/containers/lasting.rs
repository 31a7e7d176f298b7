//! What is left of a container when its program ends, and what starts it again.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::retry;
use crate::suites::docker::session::{IMAGE, Session};
use crate::suites::docker::{contains, docker, same};

const SOON: Duration = Duration::from_secs(10);

pub fn layer_kept(session: &mut Session) -> Result<()> {
    let line = "echo x >> /lines; wc -l < /lines";
    docker(
        session,
        &["create", "--name", "keeps", IMAGE, "sh", "-c", line],
    )?;
    for expected in ["1", "2", "3"] {
        same(
            "lines",
            docker(session, &["start", "-a", "keeps"])?.trim(),
            expected,
        )?;
    }
    docker(session, &["rm", "keeps"])?;
    same(
        "lines",
        docker(session, &["run", "--rm", IMAGE, "sh", "-c", line])?.trim(),
        "1",
    )
}

pub fn logs(session: &mut Session) -> Result<()> {
    let line = "for i in 1 2 3; do echo line $i; done; echo bad >&2; sleep 1; echo last";
    docker(
        session,
        &["run", "-d", "--name", "talks", IMAGE, "sh", "-c", line],
    )?;
    let followed = docker(session, &["logs", "-f", "talks"])?;
    same(
        "followed",
        followed.as_str(),
        "line 1\nline 2\nline 3\nlast",
    )?;
    same(
        "tail",
        docker(session, &["logs", "--tail", "1", "talks"])?.as_str(),
        "last",
    )?;
    let stamped = docker(session, &["logs", "-t", "--tail", "1", "talks"])?;
    let (stamp, rest) = stamped.split_once(' ').context("a timestamp")?;
    ensure!(stamp.ends_with('Z') && rest == "last", "{stamped:?}");
    let since = session
        .docker
        .output(&["logs", "--since", stamp, "talks"])?;
    same(
        "since",
        String::from_utf8_lossy(&since.stdout).trim(),
        "last",
    )?;
    docker(session, &["rm", "talks"]).map(drop)
}

pub fn attach(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "run",
            "-d",
            "-i",
            "--name",
            "asks",
            IMAGE,
            "sh",
            "-c",
            "read a; echo got $a; read b; echo got $b",
        ],
    )?;
    let mut child = session.docker.command(&["attach", "asks"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut typed = child.stdin.take().context("its input")?;
    std::io::Write::write_all(&mut typed, b"one\ntwo\n")?;
    let mut seen = String::new();
    child
        .stdout
        .take()
        .context("its output")?
        .read_to_string(&mut seen)?;
    drop(typed);
    child.wait()?;
    same("what was seen", seen.as_str(), "got one\ngot two\n")?;
    docker(session, &["rm", "asks"]).map(drop)
}

pub fn restart_policy(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "run",
            "-d",
            "--restart",
            "on-failure:2",
            "--name",
            "tries",
            IMAGE,
            "sh",
            "-c",
            "echo run; exit 1",
        ],
    )?;
    let state = [
        "inspect",
        "-f",
        "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}",
        "tries",
    ];
    retry(SOON, || {
        same("state", docker(session, &state)?.as_str(), "2 exited 1")
    })?;
    same(
        "runs",
        docker(session, &["logs", "tries"])?.lines().count(),
        3,
    )?;
    docker(session, &["rm", "tries"])?;
    docker(
        session,
        &[
            "run",
            "-d",
            "--restart",
            "always",
            "--name",
            "stays",
            IMAGE,
            "sleep",
            "1000",
        ],
    )?;
    docker(session, &["exec", "stays", "sh", "-c", "kill -9 -1"]).ok();
    docker(session, &["kill", "stays"])?;
    let status = ["inspect", "-f", "{{.State.Status}}", "stays"];
    retry(SOON, || {
        same(
            "after a kill by hand",
            docker(session, &status)?.as_str(),
            "exited",
        )
    })?;
    docker(session, &["rm", "stays"])?;
    let refused = session
        .docker
        .refusal(&["create", "--restart", "always", "--rm", IMAGE])?;
    contains("create", &refused, "--restart")
}

pub fn wait_and_rm(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "run",
            "-d",
            "--rm",
            "--name",
            "brief",
            IMAGE,
            "sh",
            "-c",
            "sleep 0.5; exit 9",
        ],
    )?;
    same("wait", docker(session, &["wait", "brief"])?.as_str(), "9")?;
    retry(SOON, || {
        same("containers", docker(session, &["ps", "-aq"])?.as_str(), "")
    })
}
