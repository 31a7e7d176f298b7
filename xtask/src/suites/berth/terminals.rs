//! Steps with a terminal, as script(1) gives one.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{IMAGE, Step, berth, contains, same};
use crate::command::{output, retry};
use crate::suites::docker::session::Session;

const SOON: Duration = Duration::from_secs(10);

pub const STEPS: &[(&str, Step)] = &[
    ("run -it has a terminal of this one's size", terminal),
    (
        "the terminal is as it was, after an end and after an error",
        restored,
    ),
    ("a terminal that becomes larger does so inside", resized),
    (
        "keys leave a terminal, and attach comes back to it",
        detached,
    ),
    ("exec -it has a terminal and ends with its code", exec),
    (
        "tables are as wide as the terminal, in colours that can be refused",
        fitted,
    ),
    ("pull draws bars, bytes and speed", progress),
];

/// What runs in a terminal of its own. The line is that of a shell; `$berth` is the client.
fn script(session: &Session, line: &str) -> Command {
    let client = format!(
        "{} --host unix://{}",
        session.docker.program.display(),
        session.docker.socket.display()
    );
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "60", "script", "-qec", line, "/dev/null"])
        .env("berth", client)
        .env("TERM", "xterm")
        .env("DOCKER_CONFIG", &session.docker.config)
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command
}

pub fn shown(session: &Session, line: &str) -> Result<String> {
    let output = output(&mut script(session, line))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn terminal(session: &mut Session) -> Result<()> {
    let line = format!(
        "stty rows 33 cols 101; exec $berth run --rm -it {IMAGE} sh -c 'sleep 0.3; tty; stty size'"
    );
    let text = shown(session, &line)?;
    contains("terminal", &text, "/dev/pts/0")?;
    contains("size", &text, "33 101")
}

fn restored(session: &mut Session) -> Result<()> {
    for (run, code) in [
        (format!("{IMAGE} true"), 0),
        (format!("{IMAGE} nothing-there"), 127),
    ] {
        let line = format!(
            "before=$(stty -g); $berth run --rm -it {run}; code=$?; after=$(stty -g); \
             [ \"$before\" = \"$after\" ] && echo as before, $code"
        );
        contains(&run, &shown(session, &line)?, &format!("as before, {code}"))?;
    }
    Ok(())
}

fn resized(session: &mut Session) -> Result<()> {
    let inside = "while [ \"$(stty size)\" != \"41 99\" ]; do sleep 0.1; done; echo grown";
    let line = format!(
        "stty rows 20 cols 50; (sleep 1; stty rows 41 cols 99 < /dev/tty) & \
         exec $berth run --rm -it {IMAGE} sh -c '{}'",
        inside.replace('\'', "'\\''")
    );
    contains("what it sees", &shown(session, &line)?, "grown")
}

fn detached(session: &mut Session) -> Result<()> {
    let leave = |session: &Session, line: &str, typed: &[u8]| -> Result<String> {
        let mut command = script(session, line);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut keys = child.stdin.take().context("its input")?;
        retry(SOON, || {
            let status = berth(session, &["inspect", "-f", "{{.State.Status}}", "kept"])?;
            same("status", status.as_str(), "running")
        })?;
        // Until the terminal is raw, it has keys of its own.
        std::thread::sleep(Duration::from_millis(800));
        keys.write_all(typed)?;
        std::thread::sleep(Duration::from_millis(500));
        keys.write_all(b"\x10\x11")?;
        let output = child.wait_with_output()?;
        same("exit code", output.status.code(), Some(0))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let line = format!("exec $berth run -it --name kept {IMAGE} sh");
    let text = leave(session, &line, b"echo $((40+2))\n")?;
    contains("the first look", &text, "42")?;
    let text = leave(session, "exec $berth attach kept", b"echo $((50+3))\n")?;
    contains("the second look", &text, "53")?;
    let line = ["inspect", "-f", "{{.State.Running}}", "kept"];
    same("it runs", berth(session, &line)?.as_str(), "true")?;
    berth(session, &["rm", "-f", "kept"]).map(drop)
}

fn exec(session: &mut Session) -> Result<()> {
    berth(
        session,
        &["run", "-d", "--name", "kept", IMAGE, "sleep", "1000"],
    )?;
    let line = "stty rows 30 cols 90; $berth exec -it kept sh -c 'sleep 0.3; stty size; exit 4'; \
                echo code $?";
    let text = shown(session, line)?;
    contains("size", &text, "30 90")?;
    contains("exit code", &text, "code 4")
}

fn fitted(session: &mut Session) -> Result<()> {
    let text = shown(session, "stty cols 70; exec $berth ps")?;
    contains("colours", &text, "\x1b[32m")?;
    let text = shown(session, "stty cols 70; export NO_COLOR=1; exec $berth ps")?;
    ensure!(!text.contains('\x1b'), "colours: {text:?}");
    let widest = text
        .lines()
        .map(|line| line.trim_end().chars().count())
        .max();
    ensure!(
        widest.is_some_and(|width| width <= 70),
        "{widest:?}: {text}"
    );
    contains("what is cut", &text, "…")?;
    let text = shown(session, "stty cols 70; exec $berth ps --no-trunc")?;
    ensure!(!text.contains('…'), "cut: {text}");
    berth(session, &["rm", "-f", "kept"]).map(drop)
}

fn progress(session: &mut Session) -> Result<()> {
    let name = session.reference(":one");
    berth(session, &["rmi", &name, IMAGE])?;
    let text = shown(session, &format!("stty cols 90; exec $berth pull {name}"))?;
    berth(session, &["tag", &name, IMAGE])?;
    contains("the whole", &text, "2/2 layers, ")?;
    contains("bytes", &text, "MB / ")?;
    contains("speed", &text, "B/s")?;
    contains("drawn over", &text, "\x1b[J")?;
    contains("status", &text, "Status: Downloaded newer image")
}
