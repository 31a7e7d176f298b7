//! Steps that concern health checks.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::session::{IMAGE, Session};
use super::{Step, contains, now, same};
use crate::command::retry;

const SOON: Duration = Duration::from_secs(10);

pub const STEPS: &[(&str, Step)] = &[
    (
        "a check makes a container healthy and unhealthy, and events tell",
        changes,
    ),
    (
        "health outlives the daemon, and is checked under the next one",
        restart,
    ),
    ("a check that hangs is ended with its processes", hangs),
    ("an image's check is made, and can be left out", of_image),
    ("checks that cannot be meant are refused", refused),
];

const STATUS: [&str; 3] = ["inspect", "-f", "{{.State.Health.Status}}"];

fn becomes(session: &Session, name: &str, wanted: &str) -> Result<()> {
    let line = [&STATUS[..], &[name]].concat();
    retry(SOON, || {
        same("health", session.docker.text(&line)?.as_str(), wanted)
    })
}

fn changes(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let from = now()?;
    docker.text(&[
        "run",
        "-d",
        "--name",
        "well",
        "--health-cmd",
        "cat /ok",
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        IMAGE,
        "sleep",
        "1000",
    ])?;
    becomes(session, "well", "unhealthy")?;
    let shown = docker.text(&[
        "ps",
        "--filter",
        "health=unhealthy",
        "--format",
        "{{.Status}}",
    ])?;
    ensure!(shown.ends_with("(unhealthy)"), "{shown:?}");
    docker.text(&["exec", "well", "sh", "-c", "echo fine > /ok"])?;
    becomes(session, "well", "healthy")?;
    let shown = docker.text(&["ps", "--filter", "name=well", "--format", "{{.Status}}"])?;
    ensure!(shown.ends_with("(healthy)"), "{shown:?}");
    let last = "{{(index .State.Health.Log 0).ExitCode}} {{.State.Health.FailingStreak}} \
                {{range .State.Health.Log}}{{.Output}}{{end}}";
    retry(SOON, || {
        let told = docker.text(&["inspect", "-f", last, "well"])?;
        same("log", told.as_str(), "0 0 fine\nfine\nfine\nfine\nfine")
    })?;
    let until = now()?;
    let told = |event: &str| docker.told((&from, &until), &[event], "{{.Action}}");
    same(
        "events",
        told("event=health_status")?,
        vec![
            "health_status: unhealthy".to_owned(),
            "health_status: healthy".to_owned(),
        ],
    )?;
    let line = "exec_start: /bin/sh -c cat /ok".to_owned();
    ensure!(told("event=exec_start")?.contains(&line), "no {line:?}");
    ensure!(!told("event=exec_die")?.is_empty(), "no exec_die");
    Ok(())
}

fn restart(session: &mut Session) -> Result<()> {
    session.restart_daemon()?;
    let docker = &session.docker;
    let line = [&STATUS[..], &["well"]].concat();
    same("health", docker.text(&line)?.as_str(), "healthy")?;
    docker.text(&["exec", "well", "rm", "/ok"])?;
    becomes(session, "well", "unhealthy")?;
    docker.text(&["stop", "-t", "0", "well"])?;
    same("health", docker.text(&line)?.as_str(), "unhealthy")?;
    docker.text(&["start", "well"])?;
    let shown = docker.text(&["ps", "--filter", "name=well", "--format", "{{.Status}}"])?;
    contains("status", &shown, "health")?;
    docker.text(&["rm", "-f", "well"]).map(drop)
}

fn hangs(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    docker.text(&[
        "run",
        "-d",
        "--name",
        "stuck",
        "--health-cmd",
        "echo so far; setsid sleep 1001 & sleep 1001 & sleep 1001",
        "--health-interval",
        "50ms",
        "--health-timeout",
        "100ms",
        "--health-retries",
        "4",
        IMAGE,
        "sleep",
        "1000",
    ])?;
    becomes(session, "stuck", "unhealthy")?;
    let log = "{{with index .State.Health.Log 0}}{{.ExitCode}} {{.Output}}{{end}}";
    same(
        "log",
        docker.text(&["inspect", "-f", log, "stuck"])?.as_str(),
        "-1 Health check exceeded timeout (100ms): so far",
    )?;
    // At most one is being made.
    let left = docker.lines(&["top", "stuck"])?;
    let left = left.iter().filter(|line| line.ends_with("sleep 1001"));
    let left = left.count();
    ensure!(left <= 3, "{left} processes of former checks");
    docker.text(&["rm", "-f", "stuck"]).map(drop)
}

fn of_image(session: &mut Session) -> Result<()> {
    let checked = session.reference(":checked");
    let docker = &session.docker;
    docker.text(&["run", "-d", "--name", "own", &checked, "sleep", "1000"])?;
    becomes(session, "own", "healthy")?;
    docker.text(&["rm", "-f", "own"])?;
    let line = [
        "run",
        "-d",
        "--no-healthcheck",
        "--name",
        "own",
        &checked,
        "sleep",
        "1000",
    ];
    docker.text(&line)?;
    let told = docker.text(&["inspect", "-f", "{{.State.Health}}", "own"])?;
    same("health", told.as_str(), "<nil>")?;
    let shown = docker.text(&["ps", "-q", "--filter", "health=none"])?;
    same("containers", shown.lines().count(), 1)?;
    docker.text(&["rm", "-f", "own"])?;
    docker.text(&["rmi", &checked]).map(drop)
}

fn refused(session: &mut Session) -> Result<()> {
    let line = [
        "create",
        "--health-cmd",
        "true",
        "--health-interval",
        "10us",
        IMAGE,
    ];
    let said = session.docker.refusal(&line)?;
    contains(
        "create",
        &said,
        "Interval in Healthcheck cannot be less than 1ms",
    )?;
    let said = session.docker.refusal(&["ps", "--filter", "health=fine"])?;
    contains("ps", &said, "unrecognised filter value for health: fine")
}
