//! System calls that somebody else answers.

use crate::Case;
use crate::fixture::{Bundle, Host, exec, exec_process, process, quiet, reap, refused};
use anyhow::{Context, Result, bail, ensure};
use berth_kernel::rustix::event::{PollFd, PollFlags, poll};
use berth_kernel::{Answer, Errno};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub const CASES: &[Case] = &[
    (
        "an_agent_answers_for_a_container_and_what_is_executed_in_it",
        answers,
    ),
    (
        "calls_of_the_runtime_itself_wait_for_the_agent_only",
        of_the_runtime,
    ),
    ("without_its_agent_nothing_starts_or_stays", no_agent),
];

/// The first argument by which this program becomes an agent.
pub const AGENT: &str = "--seccomp-agent";
/// `EXDEV`, which `mkdir` does not give by itself.
const ERRNO: u16 = 18;
const WORDS: &str = "Invalid cross-device link";

/// Serves as `AGENT SOCKET LOG errno|continue`: writes each state that it is sent to the log, and
/// `?` for each notification.
pub fn serve(arguments: &[String]) -> Result<()> {
    let [_, socket, log, answer] = arguments else {
        bail!("an agent needs a socket, a log and an answer");
    };
    let answer = match answer.as_str() {
        "errno" => Answer::Errno(ERRNO),
        _ => Answer::Continue,
    };
    let socket = UnixListener::bind(socket)?;
    let mut log = File::create(log)?;
    println!("ready");
    let mut listeners: Vec<OwnedFd> = Vec::new();
    loop {
        let sources = std::iter::once(socket.as_fd()).chain(listeners.iter().map(AsFd::as_fd));
        let mut polled: Vec<PollFd<'_>> = sources
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        poll(&mut polled, None)?;
        let ready: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        for (listener, ready) in listeners.iter().zip(&ready[1..]) {
            if ready.contains(PollFlags::IN) {
                give(listener, answer, &mut log)?;
            }
        }
        let mut gone = ready[1..]
            .iter()
            .map(|ready| ready.contains(PollFlags::HUP));
        listeners.retain(|_| gone.next() != Some(true));
        if ready[0].contains(PollFlags::IN) {
            listeners.push(accept(&socket, &mut log)?);
        }
    }
}

fn give(listener: &OwnedFd, answer: Answer, log: &mut File) -> Result<()> {
    let asked = match berth_kernel::receive_notification(listener) {
        Err(Errno::NOENT | Errno::INTR) => return Ok(()),
        asked => asked?,
    };
    writeln!(log, "?")?;
    match berth_kernel::answer_notification(listener, asked.id, answer) {
        Err(Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}

fn accept(socket: &UnixListener, log: &mut File) -> Result<OwnedFd> {
    let (connection, _) = socket.accept()?;
    let mut bytes = [0u8; 4096];
    let received = berth_kernel::receive_with_fds(&connection, &mut bytes)?;
    let state = std::str::from_utf8(&bytes[..received.length])?;
    writeln!(log, "{state}")?;
    let [listener]: [OwnedFd; 1] = received.fds.try_into().ok().context("one descriptor")?;
    Ok(listener)
}

/// An agent of its own process: this one has to stay without threads.
struct Agent {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    fn start(directory: &Path, answer: &str) -> Result<Self> {
        let (socket, log) = (directory.join("agent.sock"), directory.join("agent.log"));
        let mut child = Command::new(std::env::current_exe()?)
            .arg(AGENT)
            .args([&socket, &log])
            .arg(answer)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut word = [0u8; 6];
        let output = child.stdout.as_mut().context("no output")?;
        output.read_exact(&mut word)?;
        Ok(Self { child, socket, log })
    }

    /// States that it was sent, and how many notifications it got.
    fn heard(&self) -> Result<(Vec<Value>, usize)> {
        let text = fs::read_to_string(&self.log)?;
        let (asked, states): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| *line == "?");
        let states = states.into_iter().map(serde_json::from_str);
        Ok((states.collect::<Result<_, _>>()?, asked.len()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn notifying(bundle: Bundle, agent: &Path, names: &[&str]) -> Bundle {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": agent,
        "listenerMetadata": "of the test",
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
    });
    bundle.set("/linux/seccomp", profile)
}

fn answers(host: &Host) -> Result<()> {
    for (no_new_privileges, flags) in [
        (true, json!([])),
        (false, json!([])),
        (true, json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])),
    ] {
        let directory = tempfile::tempdir()?;
        let agent = Agent::start(directory.path(), "errno")?;
        let bundle = host.bundle("mkdir /tmp/x || { :>/tmp/asked; sleep 60; }")?;
        let bundle = notifying(bundle, &agent.socket, &["mkdir", "mkdirat"])
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/linux/seccomp/flags", flags)
            .set("/annotations", json!({"key": "value"}));
        let mut container = bundle.create(host)?;
        container.start()?;
        // The container's own call first: it is not ended before.
        let script = "while [ ! -e /tmp/asked ]; do :; done; mkdir /tmp/y; true";
        let outcome = exec(&container, script);
        let pid = container.pid();
        container.delete(true)?;
        reap(pid)?;
        let outcome = outcome?;
        ensure!(outcome.stderr.contains(WORDS), "{outcome:?}");

        let (states, asked) = agent.heard()?;
        ensure!(asked == 2, "{asked} calls were asked about");
        let [first, second] = states.as_slice() else {
            bail!("{} states were sent", states.len());
        };
        let expected = json!({
            "ociVersion": "1.2.0",
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": "of the test",
            "state": {
                "ociVersion": "1.2.0",
                "id": bundle.id,
                "status": "creating",
                "pid": pid,
                "bundle": bundle.dir.path(),
                "annotations": {"key": "value"},
            },
        });
        ensure!(*first == expected, "{first}");
        ensure!(second["state"]["status"] == "running", "{second}");
        ensure!(second["state"]["pid"] == json!(pid), "{second}");
        ensure!(second["pid"] != json!(pid), "{second}");
    }
    Ok(())
}

fn of_the_runtime(host: &Host) -> Result<()> {
    let names = [
        "sendmsg", "read", "execve", "close", "setuid", "capset", "getcwd", "openat",
    ];
    for no_new_privileges in [true, false] {
        let directory = tempfile::tempdir()?;
        let agent = Agent::start(directory.path(), "continue")?;
        let bundle = notifying(host.bundle("cat /etc/group")?, &agent.socket, &names)
            .set("/process/noNewPrivileges", json!(no_new_privileges));
        let output = bundle.output(host)?;
        ensure!(output == "root:x:0:\n", "{output}");
        let (states, asked) = agent.heard()?;
        ensure!(states.len() == 1 && asked > 3, "{states:?} {asked}");
    }
    Ok(())
}

fn no_agent(host: &Host) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("agent.sock");
    for no_new_privileges in [true, false] {
        let bundle = notifying(host.bundle("exit 0")?, &socket, &["mkdir"])
            .set("/process/noNewPrivileges", json!(no_new_privileges));
        let message = bundle.refusal(host)?;
        let expected = format!("connect to the seccomp agent at {}", socket.display());
        ensure!(message.contains(&expected), "{message}");
    }
    // One that goes away leaves its container, and lets no other process into it.
    let agent = Agent::start(directory.path(), "errno")?;
    let mut container = notifying(host.bundle("sleep 60")?, &socket, &["mkdir"]).create(host)?;
    container.start()?;
    drop(agent);
    let before = container.processes()?;
    let error = refused(exec_process(&container, &process("true"), quiet()))?;
    let after = container.processes()?;
    container.delete(true)?;
    reap(container.pid())?;
    let message = format!("{error:#}");
    ensure!(
        message.contains("connect to the seccomp agent"),
        "{message}"
    );
    ensure!(before == after, "{before:?} {after:?}");
    Ok(())
}
