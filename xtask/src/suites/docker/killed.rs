//! A daemon that is killed while clients listen: containers live, and nothing of what they said is lost.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::session::{IMAGE, Session};
use super::{Step, docker, same};

pub const STEPS: &[(&str, Step)] = &[
    (
        "kill -9 of the daemon: containers live, logs are whole",
        killed_daemon,
    ),
    (
        "kill -9 of the daemon: who was attached comes back",
        attached,
    ),
];

fn killed_daemon(session: &mut Session) -> Result<()> {
    let count = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done";
    docker(
        session,
        &["run", "-d", "--name", "counts", IMAGE, "sh", "-c", count],
    )?;
    let pid = ["inspect", "-f", "{{.State.Pid}}", "counts"];
    let before = docker(session, &pid)?;
    let mut follower = session.docker.command(&["logs", "-f", "counts"]);
    let follower = follower
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    session.restart_daemon()?;
    let seen = follower.wait_with_output()?;
    ensure!(!seen.stdout.is_empty(), "nothing was followed");
    same("its process", docker(session, &pid)?, before)?;
    docker(session, &["stop", "-t", "0", "counts"])?;
    let all = docker(session, &["logs", "counts"])?;
    for (expected, line) in all.lines().enumerate() {
        same("a line of the log", line, &expected.to_string())?;
    }
    ensure!(
        all.lines().count() > 10,
        "only {} lines",
        all.lines().count()
    );
    docker(session, &["rm", "counts"]).map(drop)
}

struct Attached {
    client: Child,
    typed: ChildStdin,
    shown: BufReader<ChildStdout>,
}

impl Attached {
    fn to(session: &Session, container: &str) -> Result<Self> {
        let mut command = session.docker.command(&["attach", container]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = command.stderr(Stdio::null()).spawn()?;
        Ok(Self {
            typed: client.stdin.take().context("its input")?,
            shown: BufReader::new(client.stdout.take().context("its output")?),
            client,
        })
    }

    fn says(&mut self, line: &str) -> Result<String> {
        writeln!(self.typed, "{line}").context("typing")?;
        let mut answer = String::new();
        self.shown.read_line(&mut answer)?;
        Ok(answer.trim().to_owned())
    }
}

fn attached(session: &mut Session) -> Result<()> {
    let line = "while read line; do echo got $line; done; echo end of input";
    docker(
        session,
        &["run", "-d", "-i", "--name", "asks", IMAGE, "sh", "-c", line],
    )?;
    let mut before = Attached::to(session, "asks")?;
    same("before", before.says("one")?.as_str(), "got one")?;
    session.restart_daemon()?;
    before.client.wait()?;
    let mut after = Attached::to(session, "asks")?;
    same("after", after.says("two")?.as_str(), "got two")?;
    // Its input was opened for many clients, one after another: the end of one's is not its own.
    drop(after.typed);
    std::thread::sleep(Duration::from_millis(300));
    let state = [
        "inspect",
        "--format",
        "{{.State.Running}} {{.RestartCount}}",
        "asks",
    ];
    same("state", docker(session, &state)?.as_str(), "true 0")?;
    same(
        "logs",
        docker(session, &["logs", "asks"])?.as_str(),
        "got one\ngot two",
    )?;
    docker(session, &["rm", "-f", "asks"])?;
    after
        .client
        .wait()
        .context("waiting for the client")
        .map(drop)
}
