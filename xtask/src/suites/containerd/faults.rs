//! What is replaced or killed beneath containers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::Step;
use super::session::{SOON, Session};
use super::tasks::{COUNTER, count, counts_beyond};
use super::watch::Watch;
use crate::command::retry;
use crate::suites::checks::same;

pub const STEPS: &[(&str, Step)] = &[
    ("a shim is replaced beneath a task, which goes on", upgraded),
    (
        "the task of a killed shim ends, and nothing of it stays",
        shim_killed,
    ),
    (
        "a paused task of a killed shim ends as well",
        paused_shim_killed,
    ),
    (
        "a shim that is killed while containerd is away is cleaned up behind",
        both_killed,
    ),
    (
        "tasks outlive a killed containerd, and the next one has them",
        containerd_killed,
    ),
];

/// How soon the end of a killed shim's task is told.
const TOLD: Duration = Duration::from_secs(2);

/// Which file a program is.
fn file(path: impl AsRef<Path>) -> Result<(u64, u64)> {
    let path = path.as_ref();
    let found = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    Ok((found.dev(), found.ino()))
}

fn program(pid: i32) -> Result<(u64, u64)> {
    file(format!("/proc/{pid}/exe"))
}

fn upgraded(session: &mut Session) -> Result<()> {
    session.task("old", COUNTER)?;
    let pid = session.running("old")?;
    let shim = session.shim("old")?;
    let before = file(session.shim_file())?;
    same("the old shim's program", program(shim)?, before)?;
    session.install_shim()?;
    let after = file(session.shim_file())?;
    ensure!(before != after, "the file is the same");

    session.task("new", COUNTER)?;
    same(
        "the new shim's program",
        program(session.shim("new")?)?,
        after,
    )?;
    same("the old shim's program", program(shim)?, before)?;
    counts_beyond(pid, count(pid)?)?;
    for id in ["old", "new"] {
        let said = session.exec(id, "echo here; exit 2")?;
        same(id, said, (2, "here\n".to_owned()))?;
    }
    same("pid", session.running("old")?, pid)?;
    session.remove("old")?;
    session.remove("new")
}

fn kill(pid: i32) -> Result<()> {
    let pid = Pid::from_raw(pid).context("a pid")?;
    kill_process(pid, Signal::KILL).with_context(|| format!("killing {pid:?}"))
}

/// Whether a process is there and no zombie.
fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn shim_killed(session: &mut Session) -> Result<()> {
    let mut watch = Watch::begin(session)?;
    session.task("orphan", COUNTER)?;
    let pid = session.running("orphan")?;
    counts_beyond(pid, 1)?;
    kill(session.shim("orphan")?)?;
    let told = |event: &serde_json::Value| event["exit_status"] == 137;
    watch.within(TOLD, "/tasks/exit", told)?;
    ensure!(!lives(pid), "the task lives when its end is told");
    drop(watch);
    gone(session, "orphan")
}

fn paused_shim_killed(session: &mut Session) -> Result<()> {
    session.task("frozen", COUNTER)?;
    let pid = session.running("frozen")?;
    session.text(&["task", "pause", "frozen"])?;
    kill(session.shim("frozen")?)?;
    retry(SOON, || {
        ensure!(!lives(pid), "the task lives");
        Ok(())
    })?;
    gone(session, "frozen")
}

/// No task is listed, and its container is removed and made anew.
fn gone(session: &Session, id: &str) -> Result<()> {
    retry(SOON, || same("tasks", session.listed(id)?, None))?;
    session.text(&["container", "rm", id])?;
    session.nothing_is_left()?;
    session.task(id, COUNTER)?;
    session.running(id)?;
    session.remove(id)
}

fn both_killed(session: &mut Session) -> Result<()> {
    session.task("alone", COUNTER)?;
    let pid = session.running("alone")?;
    let shim = session.shim("alone")?;
    session.kill()?;
    kill(shim)?;
    counts_beyond(pid, count(pid)?).context("nobody has ended it yet")?;
    session.start()?;
    retry(SOON, || {
        ensure!(!lives(pid), "the task lives");
        Ok(())
    })?;
    gone(session, "alone")
}

/// One goes on meanwhile, one ends; nobody asks for the end of the latter any more.
fn containerd_killed(session: &mut Session) -> Result<()> {
    session.task("lasting", COUNTER)?;
    session.task(
        "ending",
        "while [ ! -e /tmp/stop ]; do sleep 0.05; done; exit 8",
    )?;
    let (pid, shim) = (session.running("lasting")?, session.shim("lasting")?);
    let ending = session.running("ending")?;
    session.kill()?;
    let before = count(pid)?;
    fs::write(format!("/proc/{ending}/root/tmp/stop"), "").context("ending a task")?;
    counts_beyond(pid, before)?;
    retry(SOON, || {
        ensure!(!lives(ending), "the other goes on");
        Ok(())
    })?;
    session.start()?;

    same("pid", session.running("lasting")?, pid)?;
    same("shim", session.shim("lasting")?, shim)?;
    let said = session.exec("lasting", "echo here; exit 2")?;
    same("a command beside it", said, (2, "here\n".to_owned()))?;
    same("the one that ended", session.listed("ending")?, None)?;
    session.text(&["container", "rm", "ending"])?;
    let mut watch = Watch::begin(session)?;
    session.remove("lasting")?;
    let told = |event: &serde_json::Value| event["container_id"] == "lasting";
    watch.until("/tasks/exit", told)
}
