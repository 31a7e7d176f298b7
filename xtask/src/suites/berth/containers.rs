//! Steps that concern containers without a terminal.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::{IMAGE, Step, berth, contains, ended, same};
use crate::command::retry;
use crate::suites::docker::session::Session;

const SOON: Duration = Duration::from_secs(10);

pub const STEPS: &[(&str, Step)] = &[
    (
        "run: output and errors apart, the exit code, nothing left",
        run,
    ),
    (
        "run pulls what is missing and says so beside the output",
        run_pulls,
    ),
    ("run -i: what is piped in, to its end", piped),
    (
        "127 without the program, 126 where it cannot be run",
        no_program,
    ),
    ("flags of run are in force", flags),
    ("ps: table, ids, filters, templates", list),
    ("a name that is taken: what to do", name_taken),
    ("exec: user, directory, variables, input, exit code", exec),
    (
        "logs: tail, timestamps, streams apart, follow to the end",
        logs,
    ),
    (
        "attach sees what comes and ends with the container's code",
        attach,
    ),
    ("inspect finds what has that name", inspect),
    ("top, stats and port show what runs", shows),
    ("stop, start, restart, kill, pause and wait", life),
    ("a signal to the client reaches the container", signal),
    ("rename, update, rm", changes),
    ("events, by a template and between two moments", events),
];

fn run(session: &mut Session) -> Result<()> {
    let script = "echo out; echo err >&2; exit 7";
    let found = ended(session, &["run", "--rm", IMAGE, "sh", "-c", script])?;
    same("run", found, (7, "out\n".to_owned(), "err\n".to_owned()))?;
    same("containers", berth(session, &["ps", "-aq"])?.as_str(), "")
}

fn run_pulls(session: &mut Session) -> Result<()> {
    let name = session.reference(":small");
    let (code, out, err) = ended(session, &["run", "--rm", &name, "echo", "hello"])?;
    same("run", (code, out.as_str()), (0, "hello\n"))?;
    contains("the pull", &err, "Unable to find image")?;
    contains("the pull", &err, "Already exists")?;
    berth(session, &["rmi", &name])?;
    let (code, _, err) = ended(session, &["run", "--rm", "--pull", "never", &name, "true"])?;
    same("exit code", code, 125)?;
    contains("what to do", &err, "berth pull")
}

fn piped(session: &mut Session) -> Result<()> {
    let line = ["run", "--rm", "-i", IMAGE, "sh", "-c", "wc -c; echo end"];
    let mut child = session.docker.command(&line);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut typed = child.stdin.take().context("its input")?;
    let writer = std::thread::spawn(move || typed.write_all(&vec![b'x'; 3 << 20]));
    let output = child.wait_with_output()?;
    writer.join().ok().context("the writer")??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    same("output", text.as_str(), "3145728\nend\n")
}

fn no_program(session: &mut Session) -> Result<()> {
    for (program, expected) in [("nothing-of-the-kind", 127), ("/etc/passwd", 126)] {
        let (code, _, err) = ended(session, &["run", "--rm", IMAGE, program])?;
        same(program, code, expected)?;
        contains("the reason", &err, program)?;
    }
    same("containers", berth(session, &["ps", "-aq"])?.as_str(), "")
}

fn flags(session: &mut Session) -> Result<()> {
    let directory = session.place.scratch().join("shared");
    std::fs::create_dir(&directory)?;
    std::fs::write(directory.join("file"), "from here")?;
    let volume = format!("{}:/in:ro", directory.display());
    let line = [
        "run",
        "--rm",
        "-e",
        "X=1",
        "-w",
        "/tmp",
        "-u",
        "1000:1000",
        "-h",
        "box",
        "-v",
        &volume,
        "--memory",
        "64m",
        "--ulimit",
        "nofile=99",
        "--read-only",
        "--tmpfs",
        "/t",
        "--entrypoint",
        "sh",
        IMAGE,
        "-c",
        "echo $X $PWD $(id -u) $(hostname) $(cat /in/file) $(ulimit -n); touch /t/x && echo t",
    ];
    let expected = "1 /tmp 1000 box from here 99\nt";
    same("output", berth(session, &line)?.as_str(), expected)?;
    let missing = ["run", "--rm", "-v", "/no/such/place:/in", IMAGE, "true"];
    let (code, ..) = ended(session, &missing)?;
    same("a source that is missing", code, 125)
}

fn list(session: &mut Session) -> Result<()> {
    let line = [
        "run",
        "-d",
        "--name",
        "web",
        "--label",
        "tier=front",
        "-p",
        "127.0.0.1::80",
        IMAGE,
        "httpd",
        "-f",
        "-h",
        "/etc",
    ];
    let id = berth(session, &line)?;
    same("the id", id.len(), 64)?;
    let table = session.docker.lines(&["ps"])?;
    same("rows", table.len(), 2)?;
    contains("row", &table[1], "\"httpd -f -h /etc\"")?;
    contains("row", &table[1], "->80/tcp")?;
    ensure!(
        table[1].starts_with(&id[..12]) && table[1].ends_with("web"),
        "{table:?}"
    );
    let ids = berth(session, &["ps", "-q", "--no-trunc"])?;
    same("ids", ids, id)?;
    let line = [
        "ps",
        "--filter",
        "label=tier=front",
        "--format",
        "{{.Names}} {{.State}}",
    ];
    same("template", berth(session, &line)?.as_str(), "web running")?;
    let line = ["ps", "--format", "{{.Label \"tier\"}}"];
    same("label", berth(session, &line)?.as_str(), "front")?;
    let none = berth(session, &["ps", "-q", "--filter", "status=exited"])?;
    same("those that ended", none.as_str(), "")
}

fn name_taken(session: &mut Session) -> Result<()> {
    let (code, _, err) = ended(session, &["run", "--name", "web", IMAGE, "true"])?;
    same("exit code", code, 125)?;
    contains("the reason", &err, "is already in use by container")?;
    contains("what to do", &err, "berth rm")
}

fn exec(session: &mut Session) -> Result<()> {
    let script = "echo $(id -u) $PWD $X; exit 5";
    let line = [
        "exec", "-u", "1000", "-w", "/tmp", "-e", "X=y", "web", "sh", "-c", script,
    ];
    let (code, out, _) = ended(session, &line)?;
    same("exec", (code, out.as_str()), (5, "1000 /tmp y\n"))?;
    let mut child = session
        .docker
        .command(&["exec", "-i", "web", "sh", "-c", "cat; echo end"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child
        .stdin
        .take()
        .context("its input")?
        .write_all(b"in\n")?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    same("input", text.as_str(), "in\nend\n")?;
    let (code, ..) = ended(session, &["exec", "web", "nothing-of-the-kind"])?;
    same("without the program", code, 127)?;
    let (code, _, err) = ended(session, &["exec", "no-such", "true"])?;
    same("without the container", code, 1)?;
    contains("what to do", &err, "berth ps --all")
}

fn logs(session: &mut Session) -> Result<()> {
    let script = "echo one; echo two >&2; sleep 1; echo three";
    berth(
        session,
        &["run", "-d", "--name", "talker", IMAGE, "sh", "-c", script],
    )?;
    let found = ended(session, &["logs", "-f", "talker"])?;
    let expected = (0, "one\nthree\n".to_owned(), "two\n".to_owned());
    same("followed", found, expected)?;
    let last = berth(session, &["logs", "-n", "1", "talker"])?;
    same("tail", last.as_str(), "three")?;
    let stamped = berth(session, &["logs", "-t", "--tail", "1", "talker"])?;
    ensure!(
        stamped.starts_with("20") && stamped.ends_with("Z three"),
        "{stamped}"
    );
    berth(session, &["rm", "talker"]).map(drop)
}

fn attach(session: &mut Session) -> Result<()> {
    let script = "read line; echo got $line; exit 3";
    let line = [
        "create", "-i", "--name", "listener", IMAGE, "sh", "-c", script,
    ];
    berth(session, &line)?;
    berth(session, &["start", "listener"])?;
    let mut child = session.docker.command(&["attach", "listener"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child
        .stdin
        .take()
        .context("its input")?
        .write_all(b"word\n")?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = (output.status.code(), text.as_str());
    same("attach", found, (Some(3), "got word\n"))?;
    let (code, _, err) = ended(session, &["attach", "listener"])?;
    same("exit code", code, 1)?;
    contains("what to do", &err, "berth start")?;
    berth(session, &["rm", "listener"]).map(drop)
}

fn inspect(session: &mut Session) -> Result<()> {
    let line = [
        "inspect",
        "-f",
        "{{.State.Status}} {{.Name}} {{len .Id}}",
        "web",
    ];
    same(
        "container",
        berth(session, &line)?.as_str(),
        "running /web 64",
    )?;
    let found = session.docker.json(&["inspect", "web", IMAGE, "bridge"])?;
    same("objects", found.as_array().map(Vec::len), Some(3))?;
    let (code, out, err) = ended(session, &["inspect", "no-such"])?;
    same("what is not there", (code, out.as_str()), (1, "[]\n"))?;
    contains("the reason", &err, "No such object: no-such")
}

fn shows(session: &mut Session) -> Result<()> {
    contains("top", &berth(session, &["top", "web"])?, "httpd -f")?;
    let line = [
        "stats",
        "--no-stream",
        "--format",
        "{{.Name}} {{.PIDs}}",
        "web",
    ];
    same("stats", berth(session, &line)?.as_str(), "web 1")?;
    let place = berth(session, &["port", "web", "80"])?;
    ensure!(place.starts_with("127.0.0.1:"), "{place}");
    same(
        "port",
        berth(session, &["port", "web"])?,
        format!("80/tcp -> {place}"),
    )?;
    let (code, ..) = ended(session, &["port", "web", "81"])?;
    same("a port that is not published", code, 1)?;
    let mut curl = std::process::Command::new("curl");
    curl.args([
        "-sf",
        "--max-time",
        "10",
        &format!("http://{place}/hostname"),
    ]);
    let answered = retry(SOON, || crate::command::stdout(&mut curl))?;
    ensure!(!answered.is_empty(), "nothing was served");
    Ok(())
}

fn life(session: &mut Session) -> Result<()> {
    let status = |session: &Session| berth(session, &["inspect", "-f", "{{.State.Status}}", "web"]);
    for (line, expected) in [
        (&["pause", "web"][..], "paused"),
        (&["unpause", "web"], "running"),
        (&["stop", "-t", "1", "web"], "exited"),
        (&["start", "web"], "running"),
        (&["restart", "-t", "1", "web"], "running"),
        (&["kill", "web"], "exited"),
    ] {
        same(line[0], berth(session, line)?.as_str(), "web")?;
        retry(SOON, || same(line[0], status(session)?.as_str(), expected))?;
    }
    same("wait", berth(session, &["wait", "web"])?.as_str(), "137")?;
    let (code, out, _) = ended(session, &["start", "no-such", "web"])?;
    same("one of two", (code, out.as_str()), (1, "web\n"))
}

fn signal(session: &mut Session) -> Result<()> {
    let script = "trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = std::process::Command::new(&session.docker.program);
    let child = child
        .arg("--host")
        .arg(format!("unix://{}", session.docker.socket.display()))
        .args(["run", "--rm", "--name", "asked", IMAGE, "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    retry(SOON, || {
        let said = berth(session, &["logs", "asked"])?;
        same("its output", said.as_str(), "ready")
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.context("its pid")?, Signal::TERM)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = (output.status.code(), text.as_str());
    same("run", found, (Some(9), "ready\nasked\n"))
}

fn changes(session: &mut Session) -> Result<()> {
    berth(session, &["rename", "web", "shop"])?;
    berth(
        session,
        &["update", "--memory", "96m", "--memory-swap", "96m", "shop"],
    )?;
    let line = ["inspect", "-f", "{{.Name}} {{.HostConfig.Memory}}", "shop"];
    same(
        "inspect",
        berth(session, &line)?.as_str(),
        "/shop 100663296",
    )?;
    let (code, _, err) = ended(session, &["rm", "shop"])?;
    same("exit code", code, 1)?;
    contains("what to do", &err, "berth stop")?;
    same(
        "by force",
        berth(session, &["rm", "-f", "shop"])?.as_str(),
        "shop",
    )?;
    let (code, ..) = ended(session, &["rm", "-f", "shop"])?;
    same("what is not there, by force", code, 0)
}

fn events(session: &mut Session) -> Result<()> {
    let from = berth(session, &["info", "--format", "{{.SystemTime}}"])?;
    berth(session, &["run", "--rm", "--name", "brief", IMAGE, "true"])?;
    let to = berth(session, &["info", "--format", "{{.SystemTime}}"])?;
    let line = [
        "events",
        "--since",
        &from,
        "--until",
        &to,
        "--filter",
        "container=brief",
        "--format",
        "{{.Action}}",
    ];
    let found = session.docker.lines(&line)?;
    let wanted = ["create", "start", "die", "destroy"];
    let found: Vec<&str> = found
        .iter()
        .map(String::as_str)
        .filter(|one| wanted.contains(one))
        .collect();
    same("events", found, wanted.to_vec())
}
