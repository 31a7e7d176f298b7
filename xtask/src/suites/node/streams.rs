//! Clients of streams that come, begin something, and are gone; and a command that floods.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::set_socket_linger;

use super::inventory::Inventory;
use super::session::Session;
use crate::command::retry;

/// How many clients abort, unless `BERTH_ABORTED_STREAMS` says so.
const CLIENTS: u32 = 300;
/// What is opened once and kept is open after these.
const WARM_UP: u32 = 24;
/// Allocators keep a little of what they once had.
const DAEMON_GROWTH: u64 = 16 << 20;
const SHIM_GROWTH: u64 = 1 << 20;
/// How many MiB a command floods, unless `BERTH_EXEC_FLOOD_MIB` says so.
const FLOOD: u64 = 256;
/// Of the daemon, for one answer.
const FLOOD_GROWTH: u64 = 64 << 20;
const MAX_ANSWER: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// How a client behaves before it goes.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// A command that waits, over a WebSocket.
    Waiting,
    /// A command that prints more than anybody reads.
    Flooding,
    /// The connection is reset, not closed, before the command runs.
    Resetting,
    /// An upgrade to SPDY, and no streams.
    Mute,
    /// Attached to the container.
    Attached,
    /// Half a request.
    Stuttering,
}

/// Rare enough not to use up what may wait for its client: only whole requests redeem a URL.
fn manner(number: u32) -> Manner {
    use Manner::{Attached, Flooding, Mute, Resetting, Stuttering, Waiting};
    match number % 60 {
        59 => Stuttering,
        n => [Waiting, Flooding, Resetting, Mute, Attached][n as usize % 5],
    }
}

const OUTPUT: &str = "it runs, and waits for nobody";
const WAIT: &str = "echo it runs, and waits for nobody; sleep 100000";

/// Neither the daemon nor the shim keeps anything of clients that went without a word.
pub fn aborted_leave_nothing(session: &mut Session) -> Result<()> {
    let clients = number_from("BERTH_ABORTED_STREAMS", CLIENTS.into())?;
    let (pod, container) = begin(session)?;
    let shim = parent(session.cri.pid(&container)?)?;
    for number in 0..WARM_UP {
        abort(session, &container, number).with_context(|| format!("client {number}"))?;
    }
    std::thread::sleep(Duration::from_secs(3));
    let before = (Inventory::take(session)?, Held::of(session, shim)?);
    let begun = Instant::now();
    for number in 0..u32::try_from(clients).context("BERTH_ABORTED_STREAMS")? {
        abort(session, &container, number).with_context(|| format!("client {number}"))?;
    }
    let took = begun.elapsed();
    before.0.restored(session)?;
    retry(PATIENCE, || {
        let after = Held::of(session, shim)?;
        after.compare(&before.1)
    })?;
    let after = Held::of(session, shim)?;
    println!(
        "  note    {clients} clients aborted in {:.1} s; {} of the daemon, {} of the shim",
        took.as_secs_f64(),
        growth(before.1.daemon, after.daemon),
        growth(before.1.shim, after.shim),
    );
    session.tear_down(&pod, &container)
}

/// Memory of daemon and shim in bytes, and the shim's descriptors.
#[derive(Debug)]
struct Held {
    daemon: u64,
    shim: u64,
    descriptors: usize,
}

impl Held {
    fn of(session: &Session, shim: u32) -> Result<Self> {
        let descriptors = fs::read_dir(format!("/proc/{shim}/fd")).context("the shim is gone")?;
        Ok(Self {
            daemon: memory(session.daemon_pid()?, "VmRSS")?,
            shim: memory(shim, "VmRSS")?,
            descriptors: descriptors.count(),
        })
    }

    fn compare(&self, before: &Self) -> Result<()> {
        let (now, then) = (self.descriptors, before.descriptors);
        ensure!(
            now <= then,
            "{now} descriptors of the shim instead of {then}"
        );
        for (who, now, then, most) in [
            ("daemon", self.daemon, before.daemon, DAEMON_GROWTH),
            ("shim", self.shim, before.shim, SHIM_GROWTH),
        ] {
            ensure!(
                now <= then + most,
                "the {who} grew: {} KiB",
                growth(then, now)
            );
        }
        Ok(())
    }
}

fn growth(before: u64, after: u64) -> String {
    format!("{} -> {} KiB", before >> 10, after >> 10)
}

fn begin(session: &mut Session) -> Result<(String, String)> {
    let pod_config = session.pod("streams");
    let mut config = session.container("main", &["sleep", "100000"]);
    config.stdin = true;
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let created = session.cri.create(&pod, &pod_config, &config);
    let container = created.context("CreateContainer")?;
    session.cri.start(&container).context("StartContainer")?;
    Ok((pod, container))
}

fn abort(session: &mut Session, container: &str, number: u32) -> Result<()> {
    let manner = manner(number);
    let url = match manner {
        Manner::Attached => session.cri.attach_url(container),
        Manner::Flooding => session.cri.exec_url(container, &["yes"]),
        _ => session.cri.exec_url(container, &["sh", "-c", WAIT]),
    };
    let url = url.context("asking for a URL")?;
    let (address, path) = url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .with_context(|| format!("{url:?}"))?;
    let mut stream = TcpStream::connect(address).context("connecting")?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("setting a timeout")?;
    let upgrade = match manner {
        Manner::Mute => {
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
        }
        Manner::Stuttering => "Connection: Up",
        _ => {
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        }
    };
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\n{upgrade}");
    stream.write_all(request.as_bytes()).context("asking")?;
    if matches!(manner, Manner::Stuttering) {
        return Ok(());
    }
    // With some, until the command prints.
    read_until(
        &mut stream,
        match manner {
            Manner::Waiting => OUTPUT,
            Manner::Flooding => "y\ny\ny\n",
            _ => "101 Switching",
        },
    )?;
    if matches!(manner, Manner::Resetting) {
        set_socket_linger(&stream, Some(Duration::ZERO)).context("setting linger")?;
    }
    Ok(())
}

/// The answer and what follows it may come in one piece or in many.
fn read_until(stream: &mut TcpStream, part: &str) -> Result<()> {
    let (mut said, mut buffer) = (String::new(), [0; 1024]);
    while !said.contains(part) {
        let count = stream.read(&mut buffer);
        let count = count.with_context(|| format!("reading {part:?} after {said:?}"))?;
        ensure!(count > 0, "the stream ended after {said:?}");
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    Ok(())
}

/// A flood is cut to what a client can take, says so, and leaves the daemon its size.
pub fn flood_is_cut(session: &mut Session) -> Result<()> {
    let mib = number_from("BERTH_EXEC_FLOOD_MIB", FLOOD)?;
    let (pod, container) = begin(session)?;
    let daemon = session.daemon_pid()?;
    // The peak counts from here.
    fs::write(format!("/proc/{daemon}/clear_refs"), "5").context("resetting the peak")?;
    let before = memory(daemon, "VmRSS")?;
    let command = format!("dd if=/dev/zero bs=1M count={mib}; echo the end >&2; exit 3");
    let begun = Instant::now();
    let answer = session
        .cri
        .exec_within(&container, &["sh", "-c", &command], 3600);
    let answer = answer.context("ExecSync")?;
    let took = begun.elapsed().as_secs_f64();
    let peak = memory(daemon, "VmHWM")?;

    ensure!(answer.exit_code == 3, "exit code {}", answer.exit_code);
    let (out, err) = (&answer.stdout, &answer.stderr);
    ensure!(out.len() + err.len() <= MAX_ANSWER, "{} bytes", out.len());
    let kept = out.iter().take_while(|byte| **byte == 0).count() as u64;
    let note = String::from_utf8_lossy(&out[usize::try_from(kept)?..]).into_owned();
    let dropped = format!("{} more bytes were dropped", (mib << 20) - kept);
    ensure!(note.contains(&dropped), "no {dropped:?} in {note:?}");
    ensure!(
        String::from_utf8_lossy(err).ends_with("the end\n"),
        "{err:?}"
    );
    println!(
        "  note    {mib} MiB in {took:.1} s, {} KiB kept; the daemon at most {}",
        kept >> 10,
        growth(before, peak)
    );
    ensure!(
        peak <= before + FLOOD_GROWTH,
        "the daemon grew: {}",
        growth(before, peak)
    );
    session.tear_down(&pod, &container)
}

fn number_from(variable: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}={text}")),
        Err(_) => Ok(otherwise),
    }
}

/// A line of `/proc/<pid>/status` in bytes.
fn memory(pid: u32, line: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("reading status")?;
    let value = text.lines().find_map(|found| {
        let value = found.strip_prefix(line)?.strip_prefix(':')?;
        value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    Ok(value.with_context(|| format!("no {line} of {pid}"))? << 10)
}

fn parent(pid: i32) -> Result<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("reading status")?;
    let parent = text.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent
        .and_then(|parent| parent.trim().parse().ok())
        .with_context(|| format!("no parent of {pid}"))
}
