//! What a client does with a task.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Step;
use super::session::{IMAGE, RUNTIME, SOON, Session};
use super::watch::Watch;
use crate::command::retry;
use crate::suites::checks::{contains, same};

/// Says how far it has come in a file of its own, twenty times a second.
pub const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; \
                           sleep 0.05; done";
const WAITS: &str = "while :; do sleep 1; done";
/// More than a container takes that only waits.
const LIMIT: u64 = 64 << 20;

pub const STEPS: &[(&str, Step)] = &[
    ("a command runs to its end, with its code and output", ends),
    (
        "a program that is not there is told, and leaves nothing",
        missing,
    ),
    (
        "commands run beside a task, with input, output and code",
        exec,
    ),
    (
        "run -t and exec -t have a terminal of this one's size",
        terminal,
    ),
    ("a paused task stands still until it is resumed", paused),
    ("processes and figures of a task are told", figures),
    ("what happens is told in order, and once", events),
    ("a kill for memory is told", out_of_memory),
    ("a signal ends a task with its number", signalled),
    ("output goes to the program that is named for it", logged),
];

fn ends(session: &mut Session) -> Result<()> {
    let fifos = session.fifos();
    let run = ["run", "--rm", "--runtime", RUNTIME, "--fifo-dir", &fifos];
    let script = "echo out; echo err >&2; id -u; exit 7";
    let output = session.ended(&[&run[..], &[IMAGE, "ends", "sh", "-c", script]].concat())?;
    same("code", output.status.code(), Some(7))?;
    same("output", &*output.stdout, b"out\n0\n")?;
    same("errors", &*output.stderr, b"err\n")
}

fn missing(session: &mut Session) -> Result<()> {
    let run = ["run", "--rm", "--null-io", "--runtime", RUNTIME, IMAGE];
    let output = session.ended(&[&run[..], &["missing", "/no/such"]].concat())?;
    ensure!(!output.status.success(), "it ran");
    let said = String::from_utf8_lossy(&output.stderr);
    contains("the reason", &said, "exec: \"/no/such\"")?;
    contains("the reason", &said, "no such file or directory")?;
    same("tasks", session.listed("missing")?, None)
}

fn exec(session: &mut Session) -> Result<()> {
    session.task("beside", WAITS)?;
    let said = session.exec("beside", "echo $0; hostname > /dev/null; exit 5")?;
    same("code and output", said, (5, "sh\n".to_owned()))?;
    let fifos = session.fifos();
    let words = ["task", "exec", "--fifo-dir", &fifos, "--exec-id", "input"];
    let mut child = session
        .ctr(&[&words[..], &["beside", "tr", "a-z", "A-Z"]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting ctr")?;
    let mut input = child.stdin.take().context("its input")?;
    input.write_all(b"word\n")?;
    drop(input);
    let output = child.wait_with_output()?;
    same("what came back", &*output.stdout, b"WORD\n")?;
    same("code", output.status.code(), Some(0))?;
    session.remove("beside")
}

fn terminal(session: &mut Session) -> Result<()> {
    let line = "stty rows 33 cols 101; \
                $run term sh -c 'sleep 0.3; tty; stty size; exit 3'; echo ended with $?";
    let text = session.in_a_terminal(line)?;
    contains("the terminal of run", &text, "/dev/pts/0")?;
    contains("its size", &text, "33 101")?;
    contains("its code", &text, "ended with 3")?;
    session.task("term", WAITS)?;
    let line = "stty rows 31 cols 99; \
                $exec term sh -c 'sleep 0.3; tty; stty size; exit 4'; echo ended with $?";
    let text = session.in_a_terminal(line)?;
    contains("the terminal of exec", &text, "/dev/pts/0")?;
    contains("its size", &text, "31 99")?;
    contains("its code", &text, "ended with 4")?;
    session.remove("term")
}

/// How far the counter of a task has come.
pub fn count(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/root/tmp/count");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.trim().parse().context("a count")
}

pub fn counts_beyond(pid: i32, least: u64) -> Result<u64> {
    retry(SOON, || {
        let count = count(pid)?;
        ensure!(count > least, "the count stays at {count}");
        Ok(count)
    })
}

fn paused(session: &mut Session) -> Result<()> {
    session.task("still", COUNTER)?;
    let pid = session.running("still")?;
    counts_beyond(pid, 2)?;
    session.text(&["task", "pause", "still"])?;
    let state = session.listed("still")?.map(|(_, state)| state);
    same("state", state.as_deref(), Some("PAUSED"))?;
    let before = count(pid)?;
    thread::sleep(Duration::from_millis(400));
    same("its count", count(pid)?, before)?;
    let (code, _) = session.exec("still", "true")?;
    ensure!(code != 0, "a command ran in a paused task");
    session.text(&["task", "resume", "still"])?;
    session.running("still")?;
    counts_beyond(pid, before)?;
    // What is paused dies as well.
    session.text(&["task", "pause", "still"])?;
    session.remove("still")
}

fn figures(session: &mut Session) -> Result<()> {
    let limit = LIMIT.to_string();
    let run = ["run", "-d", "--null-io", "--runtime", RUNTIME];
    let more = ["--memory-limit", &limit, IMAGE, "figures"];
    let script = format!("sleep 1000 & {WAITS}");
    session.text(&[&run[..], &more, &["sh", "-c", &script]].concat())?;
    let pid = session.running("figures")?;
    retry(SOON, || {
        let list = session.text(&["task", "ps", "figures"])?;
        let pids: Vec<&str> = list
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        ensure!(pids.len() == 3, "{list}");
        ensure!(pids.contains(&pid.to_string().as_str()), "{list}");
        Ok(())
    })?;
    let text = session.text(&["task", "metrics", "--format", "json", "figures"])?;
    let metrics: Value = serde_json::from_str(&text).context("metrics")?;
    let number = |v1: &str, v2: &str| {
        let found = metrics.pointer(v1).or_else(|| metrics.pointer(v2));
        found.and_then(Value::as_u64)
    };
    same("pids", number("/pids/current", "/pids/current"), Some(3))?;
    let limit = number("/memory/usage/limit", "/memory/usage_limit");
    same("limit of memory", limit, Some(LIMIT))?;
    let used = number("/memory/usage/usage", "/memory/usage").unwrap_or_default();
    ensure!(used > 0 && used < LIMIT, "{used} bytes are used");
    let time = number("/cpu/usage/total", "/cpu/usage_usec").unwrap_or_default();
    ensure!(time > 0, "no time of the CPU: {text}");
    session.remove("figures")
}

fn events(session: &mut Session) -> Result<()> {
    let mut watch = Watch::begin(session)?;
    session.task("told", WAITS)?;
    let (code, _) = session.exec("told", "exit 6")?;
    same("code", code, 6)?;
    session.text(&["task", "pause", "told"])?;
    session.text(&["task", "resume", "told"])?;
    session.remove("told")?;
    watch.until("/tasks/delete", |event| event["id"].is_null())?;
    let seen = watch.of_task("told")?;
    let topics: Vec<&str> = seen.iter().map(|(topic, _)| topic.as_str()).collect();
    let expected = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/delete",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/exit",
        "/tasks/delete",
    ];
    same("events", topics.as_slice(), &expected[..])?;
    let exits = seen.iter().filter(|(topic, _)| topic == "/tasks/exit");
    let exits: Vec<(Option<&str>, Option<u64>)> = exits
        .map(|(_, event)| (event["id"].as_str(), event["exit_status"].as_u64()))
        .collect();
    let expected = [(Some("beside"), Some(6)), (Some("told"), Some(137))];
    same("exits", exits.as_slice(), &expected[..])
}

fn out_of_memory(session: &mut Session) -> Result<()> {
    let mut watch = Watch::begin(session)?;
    let run = ["run", "--rm", "--null-io", "--runtime", RUNTIME];
    let more = ["--memory-limit", "16777216", IMAGE, "large"];
    let script = ["sh", "-c", "exec tail /dev/zero"];
    let output = session.ended(&[&run[..], &more, &script].concat())?;
    same("code", output.status.code(), Some(137))?;
    watch.until("/tasks/delete", |event| event["container_id"] == "large")?;
    let seen = watch.of_task("large")?;
    let topics: Vec<&str> = seen.iter().map(|(topic, _)| topic.as_str()).collect();
    let expected = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/oom",
        "/tasks/exit",
        "/tasks/delete",
    ];
    same("events", topics.as_slice(), &expected[..])
}

fn signalled(session: &mut Session) -> Result<()> {
    let script = "trap 'exit 9' TERM; touch /tmp/count; while :; do sleep 0.05; done";
    session.task("trapped", script)?;
    let pid = session.running("trapped")?;
    let ready = format!("/proc/{pid}/root/tmp/count");
    retry(SOON, || {
        ensure!(std::path::Path::new(&ready).exists(), "it does not begin");
        Ok(())
    })?;
    session.text(&["task", "kill", "--signal", "SIGTERM", "trapped"])?;
    retry(SOON, || {
        let state = session.listed("trapped")?.map(|(_, state)| state);
        same("state", state.as_deref(), Some("STOPPED"))
    })?;
    let output = session.ended(&["task", "rm", "trapped"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    contains("what is told of the end", &said, "exit code 9")?;
    session.text(&["container", "rm", "trapped"]).map(drop)
}

/// What it reads it leaves below the path that it is given, and whose it was when all has come.
const LOGGER: &str = r#"#!/bin/sh
exec 5>&-
cat <&4 >"$2.err" &
cat <&3 >"$2.out"
wait
echo "$CONTAINER_NAMESPACE/$CONTAINER_ID" >"$2.new"
mv "$2.new" "$2.end"
"#;

fn logged(session: &mut Session) -> Result<()> {
    let place = session.place.scratch();
    let program = place.join("logger");
    fs::write(&program, LOGGER)
        .and_then(|()| fs::set_permissions(&program, Permissions::from_mode(0o755)))
        .context("writing a logger")?;
    let nowhere = format!("binary://{}", place.join("none").display());
    let run = ["run", "-d", "--runtime", RUNTIME, "--log-uri"];
    let missing = session.ended(&[&run[..], &[&nowhere, IMAGE, "lost", "true"]].concat())?;
    let said = String::from_utf8_lossy(&missing.stderr);
    contains("the reason", &said, "No such file or directory")?;
    session.text(&["container", "rm", "lost"])?;

    let to = |id: &str| {
        let out = place.join(id);
        let uri = format!("binary://{}?to={}", program.display(), out.display());
        (uri, out)
    };
    let (uri, of_task) = to("logged");
    let script = "echo out; echo err >&2; exec sleep 10000";
    session.text(&[&run[..], &[&uri, IMAGE, "logged", "sh", "-c", script]].concat())?;
    let (uri, of_command) = to("beside");
    let exec = ["task", "exec", "--exec-id", "beside", "--log-uri", &uri];
    let script = ["logged", "sh", "-c", "echo more; exit 4"];
    let ended = session.ended(&[&exec[..], &script].concat())?;
    same("code", ended.status.code(), Some(4))?;
    session.text(&["task", "rm", "--force", "logged"])?;
    session.text(&["container", "rm", "logged"])?;
    for (id, out, output, errors) in [
        ("logged", of_task, "out\n", "err\n"),
        ("beside", of_command, "more\n", ""),
    ] {
        let whose = retry(SOON, || {
            fs::read_to_string(out.with_extension("end")).context("the logger has not ended")
        })?;
        let read = |extension| fs::read_to_string(out.with_extension(extension));
        let expected = format!("{}/{id}", session.namespace());
        same("whose", whose.trim(), expected.as_str())?;
        same("output", read("out")?.as_str(), output)?;
        same("errors", read("err")?.as_str(), errors)?;
    }
    Ok(())
}
