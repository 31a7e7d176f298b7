//! Tasks that are written down, and come back.

use std::fs;

use anyhow::{Result, ensure};

use super::Step;
use super::session::{IMAGE, RUNTIME, SOON, Session};
use super::tasks::{COUNTER, count, counts_beyond};
use super::watch::Watch;
use crate::command::retry;
use crate::suites::checks::{contains, same};

pub const STEPS: &[(&str, Step)] = &[
    (
        "a checkpoint leaves a task as it was, and comes back elsewhere",
        image,
    ),
    (
        "a checkpoint in a directory ends a task that is to end",
        directory,
    ),
    (
        "a checkpoint that cannot be is refused, and the task goes on",
        refused,
    ),
];

const KEPT: &str = "crew.test/checkpoint:one";
/// Further than a counter comes while a step takes its time, counted in twentieths of a second.
const FAR: u64 = 1200;

fn image(session: &mut Session) -> Result<()> {
    let mut watch = Watch::begin(session)?;
    // With streams, which the restored task gets anew.
    let fifos = session.fifos();
    let run = [
        "run",
        "-d",
        "--fifo-dir",
        &fifos,
        "--runtime",
        RUNTIME,
        IMAGE,
    ];
    session.text(&[&run[..], &["first", "sh", "-c", COUNTER]].concat())?;
    let pid = session.running("first")?;
    counts_beyond(pid, 5)?;
    let words = [
        "container",
        "checkpoint",
        "--image",
        "--rw",
        "--task",
        "first",
        KEPT,
    ];
    session.text(&words)?;
    watch.until("/tasks/checkpointed", |event| {
        event["container_id"] == "first"
    })?;
    drop(watch);
    // Paused for it by the client, and resumed.
    same("pid", session.running("first")?, pid)?;
    let before = count(pid)?;
    counts_beyond(pid, before)?;
    session.remove("first")?;
    session.nothing_is_left()?;

    session.text(&["container", "restore", "--rw", "--live", "second", KEPT])?;
    let pid = session.running("second")?;
    let now = counts_beyond(pid, 5)?;
    ensure!(
        now < before + FAR,
        "it counts anew or too fast: {now} after {before}"
    );
    let (code, said) = session.exec("second", "cat /proc/1/comm")?;
    same("a command beside it", (code, said.as_str()), (0, "sh\n"))?;
    session.remove("second")?;
    session.text(&["image", "rm", "--sync", KEPT]).map(drop)
}

fn directory(session: &mut Session) -> Result<()> {
    session.task("ending", COUNTER)?;
    counts_beyond(session.running("ending")?, 3)?;
    let images = session.place.scratch().join("images");
    let path = images.display().to_string();
    let words = [
        "task",
        "checkpoint",
        "--exit",
        "--image-path",
        &path,
        "ending",
    ];
    // The client goes on to make an image of it for every runtime but runc, and resumes what has
    // ended; neither is the task's.
    session.ended(&words)?;
    ensure!(images.join("inventory.img").exists(), "nothing was written");
    retry(SOON, || {
        let state = session.listed("ending")?.map(|(_, state)| state);
        same("state", state.as_deref(), Some("STOPPED"))
    })?;
    session.remove("ending")?;
    for image in session.text(&["image", "ls", "-q"])?.lines() {
        if image.contains("checkpoint/ending") {
            session.text(&["image", "rm", "--sync", image])?;
        }
    }
    fs::remove_dir_all(images).map_err(Into::into)
}

/// One with a terminal.
fn refused(session: &mut Session) -> Result<()> {
    let fifos = session.fifos();
    let line = format!(
        "{} sh -c 'while :; do sleep 1; done' & sleep 1; $ctr task checkpoint shown; \
         echo ended with $?; $ctr task ls; $ctr task kill -s 9 shown; wait",
        format_args!("$ctr run --rm -t --runtime {RUNTIME} --fifo-dir {fifos} {IMAGE} shown")
    );
    let text = session.in_a_terminal(&line)?;
    contains("the reason", &text, "with a terminal")?;
    contains("the code", &text, "ended with 1")?;
    contains("the task", &text, "RUNNING")
}
