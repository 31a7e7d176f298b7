//! One emulated machine: started, listened to, ended.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::disks;
use super::kernel::Kernel;
use crate::command::{retry, which};
use crate::outcome::{Tally, tell_failure};

const PROGRAM: &str = "qemu-system-x86_64";

/// What the machine writes is kept in it too.
const MEMORY: &str = "3G";

/// A cpuset means something from two processors on.
const PROCESSORS: &str = "2";

/// Beside qemu's own files; later releases of Debian have a package for it.
const SHARER: [&str; 3] = [
    "/usr/lib/qemu/virtiofsd",
    "/usr/libexec/virtiofsd",
    "/usr/bin/virtiofsd",
];

/// How the result is told on the console, before its three counts.
const RESULT: &str = "vm-result ";

/// Said every ten seconds, whatever the suite does (`integration/vm/first`).
const ALIVE: &str = "vm-alive";
/// Without a word for so long a machine has frozen: its emulated processors can wait for each other for ever.
const SILENCE: Duration = Duration::from_secs(120);

/// What became of a machine.
pub enum End {
    Told(Tally),
    Frozen,
}

/// No kernel command line of v1: all controllers belong to the one tree. The
/// pressure files are a choice at boot in Debian's kernel. Whatever happens,
/// the machine ends.
const COMMAND_LINE: &str = "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check cgroup_no_v1=all psi=1 \
    mitigations=off systemd.unified_cgroup_hierarchy=1 systemd.show_status=no \
    systemd.log_level=warning";

/// Both processes are killed when it is dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    console: Option<ChildStdout>,
    log: File,
    _share: Share,
}

impl Machine {
    /// Everything that is said on the console goes to `log`. Sockets and disks are made in `place`.
    pub fn boot(kernel: &Kernel, initramfs: &Path, place: &Path, log: &Path) -> Result<Self> {
        let program = which(PROGRAM).with_context(|| format!("{PROGRAM} is not installed"))?;
        let log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let disks = disks::make(place)?;
        let share = Share::start(place, &log)?;
        let mut command = Command::new(program);
        command
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-monitor", "none", "-serial", "stdio"])
            .args(["-machine", "q35,memory-backend=memory"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .args(["-smp", PROCESSORS, "-m", MEMORY])
            // Shared, because the sharer reads and writes buffers in it.
            .arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=memory,size={MEMORY},share=on"
            ))
            .arg("-chardev")
            .arg(format!("socket,id=host,path={}", share.socket.display()))
            .args(["-device", "vhost-user-fs-pci,chardev=host,tag=host"])
            .args(disks.iter().flat_map(|disk| {
                let file = format!("file={},if=virtio,format=raw,cache=unsafe", disk.display());
                ["-drive".to_owned(), file]
            }))
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", COMMAND_LINE]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().context("sharing the log of the machine")?)
            .spawn()
            .with_context(|| format!("starting {PROGRAM}"))?;
        let console = child.stdout.take();
        Ok(Self {
            child,
            console,
            log,
            _share: share,
        })
    }

    /// Shows what the suite inside says, with the machine's name before it, until the machine ends,
    /// and counts.
    pub fn result(mut self, name: &str, limit: Duration) -> Result<End> {
        let deadline = Instant::now() + limit;
        let console = self.console.take().context("the console")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || read_lines(console, &sender));
        let mut told = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left.min(SILENCE)) {
                Ok(line) if line == ALIVE => {}
                Ok(line) => {
                    writeln!(self.log, "{line}").context("writing the log of the machine")?;
                    match line.strip_prefix(RESULT) {
                        Some(counts) => told = Some(parse(counts)?),
                        None if line.contains("FAILED") => tell_failure(&format!("{name}{line}")),
                        None if line.starts_with("  ") => println!("  {name}{line}"),
                        None => {}
                    }
                }
                Err(RecvTimeoutError::Timeout) if left > SILENCE => return Ok(End::Frozen),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the machine did not end within {} s", limit.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait().context("waiting for the machine")?;
        ensure!(status.success(), "{PROGRAM} ended with {status}");
        told.map(End::Told)
            .context("the machine ended without a result")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        kill(&mut self.child, PROGRAM);
    }
}

/// The process that reads this host's files for the machine. It ends with its
/// client, too.
#[derive(Debug)]
struct Share {
    child: Child,
    socket: PathBuf,
}

impl Share {
    fn start(place: &Path, log: &File) -> Result<Self> {
        let program = SHARER
            .into_iter()
            .find(|path| Path::new(path).exists())
            .with_context(|| format!("none of {SHARER:?} is installed"))?;
        let socket = place.join("host.sock");
        let log = |what| log.try_clone().context(what);
        let child = Command::new(program)
            .arg(format!("--socket-path={}", socket.display()))
            .args([
                "-o",
                "source=/",
                "-o",
                "cache=always",
                "-o",
                "sandbox=chroot",
            ])
            .stdin(Stdio::null())
            .stdout(log("sharing the log of the machine")?)
            .stderr(log("sharing the log of the machine")?)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let share = Self { child, socket };
        retry(Duration::from_secs(10), || {
            ensure!(share.socket.exists(), "{program} does not listen");
            Ok(())
        })?;
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        kill(&mut self.child, "virtiofsd");
    }
}

fn kill(child: &mut Child, name: &str) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        eprintln!("ending {name}: {error}");
    }
}

/// What [`Machine::result`] waits for.
pub fn tell(tally: Tally) {
    println!(
        "{RESULT}{} {} {}",
        tally.passed, tally.failed, tally.skipped
    );
}

fn parse(counts: &str) -> Result<Tally> {
    let numbers: Vec<usize> = counts
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("reading the result {counts:?}"))?;
    match numbers[..] {
        [passed, failed, skipped] => Ok(Tally {
            passed,
            failed,
            skipped,
        }),
        _ => bail!("{counts:?} is no result"),
    }
}

/// A console ends its lines with both characters, and is not always text.
fn read_lines(console: ChildStdout, sender: &mpsc::Sender<String>) {
    let mut reader = BufReader::new(console);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        let text = String::from_utf8_lossy(&line);
        if sender.send(text.trim_end().to_owned()).is_err() {
            return;
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read_as_it_was_told() {
        assert_eq!(
            parse("3 0 1").unwrap(),
            Tally {
                passed: 3,
                failed: 0,
                skipped: 1
            }
        );
        for odd in ["", "1 2", "1 2 3 4", "a b c", "1 -2 3"] {
            assert!(parse(odd).is_err(), "{odd:?}");
        }
    }
}
