//! What a container has of the host, and what it is kept from.

use anyhow::{Result, ensure};

use super::ended;
use crate::suites::docker::session::{IMAGE, Session};
use crate::suites::docker::{contains, docker, same};

pub fn volumes(session: &mut Session) -> Result<()> {
    same(
        "create",
        docker(session, &["volume", "create", "data"])?.as_str(),
        "data",
    )?;
    docker(
        session,
        &[
            "run",
            "--rm",
            "-v",
            "data:/d",
            IMAGE,
            "sh",
            "-c",
            "echo kept > /d/f",
        ],
    )?;
    let read = [
        "run",
        "--rm",
        "--mount",
        "type=volume,src=data,dst=/d,readonly",
        IMAGE,
        "sh",
        "-c",
        "cat /d/f; touch /d/g 2>/dev/null || echo read-only",
    ];
    same("read", docker(session, &read)?.as_str(), "kept\nread-only")?;
    docker(
        session,
        &[
            "create", "--name", "user", "-v", "data:/d", "-v", "/etc", IMAGE,
        ],
    )?;
    contains(
        "rm",
        &session.docker.refusal(&["volume", "rm", "data"])?,
        "volume is in use",
    )?;
    let anonymous = docker(
        session,
        &["volume", "ls", "-q", "--filter", "dangling=false"],
    )?;
    same("volumes", anonymous.lines().count(), 2)?;
    docker(session, &["rm", "-v", "user"])?;
    same(
        "volumes",
        docker(session, &["volume", "ls", "-q"])?.as_str(),
        "data",
    )?;
    let filled = [
        "run",
        "--rm",
        "-v",
        "fresh:/etc",
        IMAGE,
        "sh",
        "-c",
        "ls /etc | wc -l",
    ];
    ensure!(
        docker(session, &filled)?.trim() != "0",
        "the volume is empty"
    );
    docker(session, &["volume", "rm", "data", "fresh"])?;
    contains(
        "inspect",
        &session.docker.refusal(&["volume", "inspect", "data"])?,
        "no such volume",
    )
}

pub fn missing_bind(session: &mut Session) -> Result<()> {
    let missing = session.place.scratch().join("nowhere");
    let bind = format!("{}:/d", missing.display());
    let (code, _, err) = ended(session, &["run", "--rm", "-v", &bind, IMAGE, "true"])?;
    same("exit code", code, Some(125))?;
    contains("the reason", &err, "bind source path does not exist")?;
    ensure!(!missing.exists(), "the directory was made");
    same("containers", docker(session, &["ps", "-aq"])?.as_str(), "")
}

pub fn limits(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "run",
            "-d",
            "--name",
            "bound",
            "-m",
            "64m",
            "--cpus",
            "0.5",
            "--pids-limit",
            "30",
            "--ulimit",
            "nofile=100:200",
            IMAGE,
            "sleep",
            "1000",
        ],
    )?;
    let asked = docker(
        session,
        &[
            "inspect",
            "-f",
            "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}",
            "bound",
        ],
    )?;
    same("inspect", asked.as_str(), "67108864 500000000 30")?;
    let shown = docker(
        session,
        &["stats", "--no-stream", "--format", "{{.MemUsage}}", "bound"],
    )?;
    contains("stats", &shown, "/ 64MiB")?;
    let files = docker(session, &["exec", "bound", "sh", "-c", "ulimit -n"])?;
    same("open files", files.as_str(), "100")?;
    docker(
        session,
        &["update", "--memory", "96m", "--memory-swap", "96m", "bound"],
    )?;
    let shown = docker(
        session,
        &["stats", "--no-stream", "--format", "{{.MemUsage}}", "bound"],
    )?;
    contains("stats", &shown, "/ 96MiB")?;
    docker(session, &["rm", "-f", "bound"])?;
    let refused = session
        .docker
        .refusal(&["run", "--rm", "-m", "1m", IMAGE, "true"])?;
    contains("run", &refused, "Minimum memory limit allowed is 6MB")
}

pub fn confined(session: &mut Session) -> Result<()> {
    let line = [
        "run",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/t:size=1m",
        "-u",
        "1000:1000",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        IMAGE,
        "sh",
        "-c",
        "id -u; touch /x 2>/dev/null || echo closed; touch /t/x && echo open; \
         grep -E 'NoNewPrivs|CapBnd' /proc/self/status",
    ];
    let told = docker(session, &line)?;
    same("the user", told.lines().next(), Some("1000"))?;
    for part in [
        "closed",
        "open",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        contains("confinement", &told, part)?;
    }
    Ok(())
}
