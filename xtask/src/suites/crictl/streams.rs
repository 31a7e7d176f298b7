//! Steps over streams: exec, attach and port-forward, each by SPDY and by WebSocket.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use super::life::{
    container_request, create_container, fetch, in_container, number, wait_for_exit,
};
use super::session::Session;
use super::{contains, same};
use crate::command::{retry, wait};

const LOCALHOST: &str = "127.0.0.1";
const SOON: Duration = Duration::from_secs(10);
const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
/// More than all buffers on the way hold.
const MUCH: usize = 8 << 20;

/// A crictl that runs beside us; killed when dropped.
struct Beside {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Beside {
    fn start(session: &Session, arguments: &[&str]) -> Result<Self> {
        let mut child = session
            .crictl
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting crictl")?;
        let said = Arc::default();
        gather(child.stdout.take().context("no output")?, &said);
        gather(child.stderr.take().context("no errors")?, &said);
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, said })
    }

    fn type_in(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the input has ended")?;
        stdin.write_all(text.as_bytes()).context("typing")
    }

    fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&said).into_owned()
    }

    fn says(&self, what: &str) -> Result<()> {
        retry(SOON, || contains("crictl", &self.said(), what))
    }

    fn ends(&mut self) -> Result<ExitStatus> {
        let ended = wait(&mut self.child, SOON)?;
        ended.with_context(|| format!("it goes on; it said {:?}", self.said()))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather(mut from: impl Read + Send + 'static, to: &Arc<Mutex<Vec<u8>>>) {
    let to = Arc::clone(to);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 {
                return;
            }
            let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
            to.extend_from_slice(&buffer[..count]);
        }
    });
}

pub fn exec(session: &mut Session) -> Result<()> {
    let command = "echo out; echo err >&2; exit 7";
    for transport in TRANSPORTS {
        let arguments = ["exec", "--transport", transport, &session.container];
        let output = session
            .crictl
            .output(&[&arguments[..], &["sh", "-c", command]].concat())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        same(transport, said.as_str(), "out\n")?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(errors.starts_with("err\n"), "{transport}: {errors:?}");
        contains(transport, &errors, "exit code 7")?;
        let said = session
            .crictl
            .refusal(&[&arguments[..], &["no-such-program"]].concat())?;
        contains(transport, &said, "no-such-program")?;
    }
    Ok(())
}

/// What goes in comes out, and the command sees the end of it.
pub fn exec_input(session: &mut Session) -> Result<()> {
    let path = session.place.scratch().join("much");
    let much: Vec<u8> = (0..MUCH).map(|i| (i % 251) as u8).collect();
    fs::write(&path, &much).context("writing the input")?;
    for transport in TRANSPORTS {
        let arguments = ["exec", "-i", "--transport", transport, &session.container];
        let output = session
            .crictl
            .command(&[&arguments[..], &["cat"]].concat())
            .stdin(File::open(&path).context("opening the input")?)
            .output()
            .context("running crictl")?;
        ensure!(
            output.status.success(),
            "{transport}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let same_bytes = output.stdout == much;
        let length = output.stdout.len();
        ensure!(
            same_bytes,
            "{transport}: {length} bytes, or others, came back"
        );
    }
    Ok(())
}

/// On a terminal of the suite's own, whose size changes.
pub fn exec_terminal(session: &mut Session) -> Result<()> {
    for transport in TRANSPORTS {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("a terminal")?;
        grantpt(&master)
            .and_then(|()| unlockpt(&master))
            .context("unlocking the terminal")?;
        let name = ptsname(&master, Vec::new()).context("naming the terminal")?;
        let size = |rows, columns| Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size(40, 100)).context("sizing the terminal")?;
        let slave = || -> Result<File> {
            let name = name.to_str().context("the terminal's name")?;
            let mut options = File::options();
            options.read(true).write(true);
            options.open(name).context("opening the terminal")
        };
        let arguments = ["exec", "-i", "-t", "--transport", transport];
        let child = session
            .crictl
            .command(&[&arguments[..], &[&session.container, "sh"]].concat())
            .stdin(slave()?)
            .stdout(slave()?)
            .stderr(slave()?)
            .spawn()
            .context("starting crictl")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("the pid of crictl")?;
        let said = Arc::default();
        let mut master = File::from(master);
        gather(master.try_clone().context("sharing the terminal")?, &said);
        let mut crictl = Beside {
            child,
            stdin: None,
            said,
        };
        let mut ask = |question: &str| {
            let typed = master.write_all(question.as_bytes());
            typed.context("typing into the terminal")
        };
        ask("tty; echo term=$TERM\n")?;
        crictl.says("/dev/pts/").context(transport)?;
        crictl.says("term=xterm").context(transport)?;
        // The size is sent on its own way: a question may be faster.
        retry(SOON, || {
            ask("stty size\n")?;
            thread::sleep(Duration::from_millis(100));
            contains(transport, &crictl.said(), "40 100")
        })?;
        tcsetwinsize(&master, size(50, 120)).context("resizing the terminal")?;
        // The terminal is not crictl's controlling one: it is told by us.
        kill_process(pid, Signal::WINCH).context("telling crictl")?;
        retry(SOON, || {
            let mut master = &master;
            master.write_all(b"stty size\n").context("typing")?;
            thread::sleep(Duration::from_millis(100));
            contains(transport, &crictl.said(), "50 120")
        })?;
        let mut master = &master;
        master.write_all(b"exit 5\n").context("typing")?;
        let status = crictl.ends()?;
        ensure!(!status.success(), "{transport}: exit 5 was lost");
    }
    Ok(())
}

/// The client is killed: its command does not outlive it.
pub fn exec_vanished(session: &mut Session) -> Result<()> {
    for (transport, seconds) in [("spdy", "4242"), ("websocket", "4343")] {
        let arguments = ["exec", "-i", "--transport", transport, &session.container];
        let stubborn = format!("trap '' HUP; echo began; sleep {seconds} & wait");
        let mut crictl = Beside::start(
            session,
            &[&arguments[..], &["sh", "-c", &stubborn]].concat(),
        )?;
        crictl.says("began")?;
        let running = format!("pgrep -x sleep -a | grep -c {seconds}");
        let count = |session: &Session| in_container(session, &format!("{running}; true"));
        same(transport, count(session)?.as_str(), "1")?;
        crictl.child.kill().context("killing crictl")?;
        let begin = Instant::now();
        retry(SOON, || same(transport, count(session)?.as_str(), "0"))?;
        println!(
            "  note    a killed client's command was gone {} ms later ({transport})",
            begin.elapsed().as_millis()
        );
    }
    Ok(())
}

/// Two clients on one container: both hear it, one talks; its going ends the input.
pub fn attach(session: &mut Session) -> Result<()> {
    let script = "echo ready; while read line; do echo \"got $line\"; echo \"e $line\" >&2; done; \
                  echo over; exit 4";
    for transport in TRANSPORTS {
        let mut request = container_request(session, "talker", &["sh", "-c", script]);
        request["stdin"] = json!(true);
        request["stdin_once"] = json!(true);
        let container = create_container(session, &request)?;
        session.crictl.text(&["start", &container])?;
        let attach = ["attach", "--transport", transport];
        let mut listener = Beside::start(session, &[&attach[..], &[&container]].concat())?;
        let mut talker = Beside::start(session, &[&attach[..], &["-i", &container]].concat())?;
        // Nothing tells when a client is attached: both have heard the same line then.
        retry(SOON, || {
            talker.type_in("knock\n")?;
            thread::sleep(Duration::from_millis(200));
            contains("the listener", &listener.said(), "got knock")?;
            contains("the talker", &talker.said(), "got knock")
        })
        .context(transport)?;
        talker.type_in("one\n")?;
        for client in [&listener, &talker] {
            client.says("got one\n")?;
            client.says("e one\n")?;
        }
        talker.stdin = None;
        for client in [&mut listener, &mut talker] {
            client.says("over\n").context(transport)?;
            client.ends()?;
        }
        let status = wait_for_exit(session, &container)?;
        same("exit code", number(&status["exitCode"]), 4)?;
        let log = session.crictl.text(&["logs", &container])?;
        contains("the log", &log, "got one")?;
        session.crictl.text(&["rm", &container])?;
    }
    Ok(())
}

/// A terminal, and input that outlives the client which gave it.
pub fn attach_terminal(session: &mut Session) -> Result<()> {
    let script = "while read line; do echo \"got $line\"; done";
    let mut request = container_request(session, "terminal", &["sh", "-c", script]);
    for key in ["stdin", "tty"] {
        request[key] = json!(true);
    }
    let container = create_container(session, &request)?;
    session.crictl.text(&["start", &container])?;
    for word in ["first", "second"] {
        // crictl asks for a terminal only where it has one itself; the container has its own.
        let mut client = Beside::start(session, &["attach", "-i", &container])?;
        retry(SOON, || {
            client.type_in(&format!("{word}\n"))?;
            thread::sleep(Duration::from_millis(200));
            contains("the client", &client.said(), &format!("got {word}\r\n"))
        })?;
        client.child.kill().context("killing crictl")?;
    }
    same(
        "state",
        super::life::state(session, &container)?.as_str(),
        "CONTAINER_RUNNING",
    )?;
    session
        .crictl
        .text(&["stop", "--timeout", "0", &container])?;
    session.crictl.text(&["rm", &container]).map(drop)
}

/// To the web server in the pod, many times at once; and to a port where nobody listens.
pub fn port_forward(session: &mut Session) -> Result<()> {
    for transport in TRANSPORTS {
        let arguments = ["port-forward", "--transport", transport, &session.pod];
        let crictl = Beside::start(session, &[&arguments[..], &[":8080", ":9"]].concat())?;
        let local = |remote: &str| -> Result<u16> {
            retry(SOON, || {
                let said = crictl.said();
                let line = said
                    .lines()
                    .find(|line| line.contains("127.0.0.1") && line.ends_with(remote));
                let port = line
                    .and_then(|line| line.split(" -> ").next()?.rsplit(':').next())
                    .and_then(|port| port.parse().ok());
                port.with_context(|| format!("no port in {said:?}"))
            })
        };
        let (web, nobody) = (local("-> 8080")?, local("-> 9")?);
        let fetching: Vec<_> = (0..8)
            .map(|_| thread::spawn(move || fetch(LOCALHOST, web)))
            .collect();
        for fetched in fetching {
            let answer = fetched
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
            contains(transport, &answer, "from the host")?;
        }
        same(
            transport,
            fetch(LOCALHOST, nobody).unwrap_or_default().as_str(),
            "",
        )?;
        crictl.says("connect")?;
        drop(crictl);
    }
    Ok(())
}
