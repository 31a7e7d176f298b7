//! Steps that concern checkpoints: they need criu, and a daemon that is told to serve them.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::session::{IMAGE, Session};
use super::{Step, contains, now, same};
use crate::command::retry;
use crate::outcome::Tally;
use crate::tools;

pub const NAME: &str = "checkpoints";
const SOON: Duration = Duration::from_secs(20);

/// Where criu cannot run only what is refused is tried.
pub fn run(session: &mut Session) -> Result<Tally> {
    let mut tally = Tally::default();
    for (name, step) in ALWAYS {
        tally.check(name, step(session));
    }
    let program = match tools::criu() {
        Ok(program) => program,
        Err(reason) => {
            for (name, _) in STEPS {
                tally.skip(name, &reason);
            }
            return Ok(tally);
        }
    };
    let text = format!(
        "criu = \"{}\"\n[docker]\nexperimental = true\n",
        program.display()
    );
    session.place.configure(&text)?;
    session.restart_daemon()?;
    for (name, step) in STEPS {
        let result = step(session);
        if result.is_err() {
            session.clear()?;
        }
        tally.check(name, result);
    }
    session.place.configure("")?;
    session.restart_daemon()?;
    Ok(tally)
}

const ALWAYS: &[(&str, Step)] = &[(
    "checkpoints are refused where the daemon is not told to serve them",
    disabled,
)];

const STEPS: &[(&str, Step)] = &[
    ("the daemon says that it is experimental", experimental),
    (
        "a container goes on from its checkpoint, and ends with one",
        goes_on,
    ),
    (
        "one that is left running goes on; a directory, a second start",
        left_running,
    ),
    ("checkpoints that cannot be meant are refused", refused),
    ("kill -9 of the daemon leaves no half checkpoint", cut_short),
];

fn disabled(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    docker.text(&["create", "--name", "plain", IMAGE, "true"])?;
    let said = docker.refusal(&["checkpoint", "ls", "plain"])?;
    contains("checkpoint ls", &said, "experimental")?;
    for (method, path, status) in [
        ("GET", "/containers/plain/checkpoints", 501),
        ("DELETE", "/containers/plain/checkpoints/one", 501),
        ("POST", "/containers/plain/start?checkpoint=one", 400),
    ] {
        let answer = docker.request(method, path, &[])?;
        same(path, answer.status, status)?;
        contains(path, &answer.body, "experimental")?;
    }
    docker.text(&["rm", "plain"]).map(drop)
}

fn experimental(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let ping = docker.request("GET", "/_ping", &[])?;
    same("header", ping.header("docker-experimental"), Some("true"))?;
    let told = docker.text(&["info", "-f", "{{.ExperimentalBuild}}"])?;
    same("info", told.as_str(), "true")?;
    let told = docker.request("GET", "/version", &[])?.json()?;
    same("version", told["Experimental"].as_bool(), Some(true))
}

/// Counts in memory, into its log.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";

fn counter(session: &Session, name: &str) -> Result<u64> {
    let line = [
        "run", "-d", "--name", name, "-v", "/data", "--tmpfs", "/mem",
    ];
    let program = [IMAGE, "sh", "-c", COUNTER];
    session.docker.text(&[&line[..], &program].concat())?;
    counted(session, name, 3)
}

/// The last number in the log once it is more than `least`.
fn counted(session: &Session, name: &str, least: u64) -> Result<u64> {
    retry(SOON, || {
        let logs = session.docker.text(&["logs", "--tail", "1", name])?;
        let count: u64 = logs.trim().parse().context("a number")?;
        ensure!(count > least, "it counts no further than {count}");
        Ok(count)
    })
}

/// No number is missing, and none is there twice.
fn counts_on(session: &Session, name: &str, before: u64) -> Result<()> {
    counted(session, name, before + 2)?;
    let logs = session.docker.lines(&["logs", name])?;
    for (expected, line) in (1..).zip(logs) {
        same("a line of the log", line, format!("{expected}"))?;
    }
    Ok(())
}

fn state(session: &Session, name: &str) -> Result<String> {
    let format = "{{.State.Status}} {{.State.ExitCode}}";
    session.docker.text(&["inspect", "-f", format, name])
}

fn goes_on(session: &mut Session) -> Result<()> {
    counter(session, "counts")?;
    let docker = &session.docker;
    docker.text(&["exec", "counts", "sh", "-c", "echo kept > /mem/f"])?;
    let from = now()?;
    let said = docker.text(&["checkpoint", "create", "counts", "one"])?;
    same("checkpoint create", said.as_str(), "one")?;
    same("state", state(session, "counts")?.as_str(), "exited 137")?;
    let docker = &session.docker;
    let told = docker.told((&from, &now()?), &["event=checkpoint"], "{{.Action}}")?;
    same("events", told, vec!["checkpoint".to_owned()])?;
    let listed = docker.text(&["checkpoint", "ls", "counts"])?;
    same("checkpoint ls", listed.as_str(), "CHECKPOINT NAME\none")?;
    let before = counted(session, "counts", 0)?;
    // A daemon later, too.
    session.restart_daemon()?;
    let docker = &session.docker;
    docker.text(&["start", "--checkpoint", "one", "counts"])?;
    counts_on(session, "counts", before)?;
    let docker = &session.docker;
    let kept = docker.text(&["exec", "counts", "cat", "/mem/f"])?;
    same("a file in memory", kept.as_str(), "kept")?;
    let said = docker.refusal(&["checkpoint", "create", "counts", "one"])?;
    let taken = "checkpoint with name one already exists for container counts";
    contains("a second one", &said, taken)?;
    same("state", state(session, "counts")?.as_str(), "running 0")?;
    let docker = &session.docker;
    docker.text(&["checkpoint", "rm", "counts", "one"])?;
    let said = docker.refusal(&["checkpoint", "rm", "counts", "one"])?;
    contains("rm", &said, "checkpoint one does not exist for container")?;
    docker.text(&["rm", "-f", "-v", "counts"]).map(drop)
}

fn left_running(session: &mut Session) -> Result<()> {
    let before = counter(session, "stays")?;
    let directory = session.place.scratch().join("checkpoints");
    let directory = directory.display().to_string();
    let place = ["--checkpoint-dir", &directory];
    let docker = &session.docker;
    let create = ["checkpoint", "create", "--leave-running"];
    docker.text(&[&create[..], &place, &["stays", "one"]].concat())?;
    counts_on(session, "stays", before)?;
    let docker = &session.docker;
    let listed = docker.lines(&["checkpoint", "ls", "stays"])?;
    same("in its own place", listed.len(), 1)?;
    let listed = docker.lines(&[&["checkpoint", "ls"][..], &place, &["stays"]].concat())?;
    same("in the directory", listed.len(), 2)?;
    docker.text(&["rm", "-f", "-v", "stays"])?;
    // Another container of the same image goes on from there.
    docker.text(&[
        "create", "--name", "clone", "-v", "/data", "--tmpfs", "/mem", IMAGE, "sh", "-c", COUNTER,
    ])?;
    docker.text(&[&["start", "--checkpoint", "one"][..], &place, &["clone"]].concat())?;
    let first = counted(session, "clone", 0)?;
    ensure!(first >= before, "it counts anew: {first}, after {before}");
    // A start without one is from the beginning.
    let docker = &session.docker;
    docker.text(&["stop", "-t", "0", "clone"])?;
    docker.text(&["start", "clone"])?;
    retry(SOON, || {
        let last = docker.text(&["logs", "--tail", "1", "clone"])?;
        let last: u64 = last.trim().parse()?;
        ensure!(last < before, "it goes on at {last}");
        Ok(())
    })?;
    docker.text(&["rm", "-f", "-v", "clone"])?;
    fs::remove_dir_all(session.place.scratch().join("checkpoints")).context("removing a directory")
}

fn refused(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    docker.text(&["run", "-dt", "--name", "shows", IMAGE, "sleep", "1000"])?;
    docker.text(&["create", "--name", "rests", IMAGE, "true"])?;
    let create =
        |arguments: &[&str]| docker.refusal(&[&["checkpoint", "create"][..], arguments].concat());
    for (arguments, reason) in [
        (&["shows", "one"][..], "terminal (tty)"),
        (&["rests", "one"], "is not running"),
        (&["nobody", "one"], "No such container: nobody"),
        (&["shows", "../one"], "Invalid checkpoint ID"),
    ] {
        contains("checkpoint create", &create(arguments)?, reason)?;
    }
    let said = docker.refusal(&["start", "--checkpoint", "none", "rests"])?;
    contains(
        "start",
        &said,
        "checkpoint none does not exist for container rests",
    )?;
    same("state", state(session, "rests")?.as_str(), "created 0")?;
    session
        .docker
        .text(&["rm", "-f", "shows", "rests"])
        .map(drop)
}

fn cut_short(session: &mut Session) -> Result<()> {
    let before = counter(session, "lives")?;
    let create = ["checkpoint", "create", "--leave-running", "lives"];
    for (number, delay) in [5, 60, 120, 250].into_iter().enumerate() {
        let name = format!("c{number}");
        let mut client = session.docker.command(&[&create[..], &[&name]].concat());
        let client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(delay));
        session.restart_daemon()?;
        let acknowledged = client.wait_with_output()?.status.success();
        let listed = session.docker.lines(&["checkpoint", "ls", "lives"])?;
        let there = listed.contains(&name);
        ensure!(there || !acknowledged, "{name} was made, and is gone");
        if !there {
            let again = [&create[..], &[&name]].concat();
            retry(SOON, || session.docker.text(&again).map(drop))?;
        }
    }
    counts_on(session, "lives", before)?;
    let id = session
        .docker
        .text(&["inspect", "-f", "{{.Id}}", "lives"])?;
    let own = session.place.root().join("standalone/containers").join(id);
    let listed = fs::read_dir(own.join("checkpoints")).context("listing checkpoints")?;
    let names: Vec<_> = listed.flatten().map(|entry| entry.file_name()).collect();
    same("checkpoints", names.len(), 4)?;
    ensure!(!own.join("checkpoint-begun").exists(), "one is begun still");
    session.docker.text(&["rm", "-f", "-v", "lives"]).map(drop)
}
