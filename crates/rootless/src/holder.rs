//! The process that keeps the namespaces, so that they outlive the daemon.
//!
//! ```text
//! daemon                         holder (this program again, under another name)
//!   start ──────────────────────▶ unshare
//!   ◀───────────────── "ready" ──
//!   newuidmap, newgidmap
//!   ── "mapped" ────────────────▶ mounts of its own, names by 10.0.2.3, a session of its own
//!   ◀────────────────── "done" ──
//!   remember                      becomes the keeper
//! ```

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use berth_kernel::{Namespace, NamespaceSet, Propagation, process_start};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::Maps;
use crate::slirp::NAME_SERVER;

/// What the program is called as where it is to hold.
const NAME: &str = "berth-rootless-holder";
const RECORD: &str = "holder.json";
const RESOLV_CONF: &str = "/etc/resolv.conf";

#[derive(Debug)]
pub(crate) struct Holder {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// A pid alone may be somebody else's by now.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// Clock ticks since the boot (`proc_pid_stat(5)`, starttime).
    started: u64,
}

impl Holder {
    /// The one of an earlier daemon, if it lives.
    pub(crate) fn find(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(RECORD);
        let Ok(bytes) = fs::read(&path) else {
            return Ok(None);
        };
        let Ok(record) = serde_json::from_slice::<Record>(&bytes) else {
            return Ok(None);
        };
        let Ok(holder) = Self::open(record.pid) else {
            return Ok(None);
        };
        // Looked at after the descriptor is there: it cannot become another's meanwhile.
        Ok((process_start(record.pid) == Some(record.started)).then_some(holder))
    }

    pub(crate) fn make(directory: &Path, keeper: &Path, maps: &Maps) -> Result<Self> {
        let own = std::env::current_exe().map_err(Error::kernel("find this program"))?;
        let mut child = Command::new(own)
            .arg0(NAME)
            .args([directory, keeper])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::kernel("start the holder"))?;
        match Self::prepare(&mut child, maps) {
            Ok(holder) => {
                remember(directory, holder.pid)?;
                Ok(holder)
            }
            Err(error) => {
                let _ended = child.kill();
                let _reaped = child.wait();
                Err(error)
            }
        }
    }

    fn prepare(child: &mut Child, maps: &Maps) -> Result<Self> {
        let pid = i32::try_from(child.id()).unwrap_or(-1);
        let gone = || Error::Holder {
            told: "the holder has no pipes".to_owned(),
        };
        let mut answers = BufReader::new(child.stdout.take().ok_or_else(gone)?);
        let mut orders = child.stdin.take().ok_or_else(gone)?;
        let mut complaints = child.stderr.take().ok_or_else(gone)?;
        expect(&mut answers, &mut complaints, "ready")?;
        map("newuidmap", pid, &maps.uids)?;
        map("newgidmap", pid, &maps.gids)?;
        // A holder that ended tells why by its complaint.
        let _told = orders.write_all(b"mapped\n");
        expect(&mut answers, &mut complaints, "done")?;
        Self::open(pid)
    }

    fn open(pid: i32) -> Result<Self> {
        let number = Pid::from_raw(pid).ok_or_else(|| Error::Holder {
            told: format!("{pid} is no process"),
        })?;
        let pidfd =
            pidfd_open(number, PidfdFlags::empty()).map_err(Error::kernel("open the holder"))?;
        Ok(Self { pid, pidfd })
    }
}

fn expect(answers: &mut impl BufRead, complaints: &mut impl Read, word: &str) -> Result<()> {
    let mut line = String::new();
    let read = answers.read_line(&mut line);
    if read.is_ok() && line.trim() == word {
        return Ok(());
    }
    let mut told = String::new();
    let _whatever_there_is = complaints.read_to_string(&mut told);
    Err(Error::Holder {
        told: told.trim().to_owned(),
    })
}

fn map(program: &'static str, pid: i32, ranges: &[String]) -> Result<()> {
    let output = Command::new(program)
        .arg(pid.to_string())
        .args(ranges)
        .output()
        .map_err(Error::start(program, "uidmap"))?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Program { program, told })
}

fn remember(directory: &Path, pid: i32) -> Result<()> {
    let path = directory.join(RECORD);
    let record = Record {
        pid,
        started: process_start(pid).unwrap_or_default(),
    };
    let text = serde_json::to_vec(&record).map_err(Error::kernel("write a record"))?;
    let draft = path.with_extension("tmp");
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, &path))
        .map_err(Error::file("write", &path))
}

/// Holds, if this program was started for that. To be called first, with one thread.
#[must_use]
pub fn hold_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args_os();
    if words.next()? != NAME {
        return None;
    }
    let directory = PathBuf::from(words.next()?);
    let keeper = PathBuf::from(words.next()?);
    let told = hold(&directory, &keeper);
    eprintln!("{told}");
    Some(ExitCode::FAILURE)
}

/// Returns only to tell what went wrong.
fn hold(directory: &Path, keeper: &Path) -> String {
    let kinds = NamespaceSet::EMPTY
        .with(Namespace::User)
        .with(Namespace::Mount)
        .with(Namespace::Network);
    if let Err(errno) = berth_kernel::unshare(kinds) {
        return format!(
            "the kernel makes no user namespaces for ordinary users ({errno}); \
             look at kernel.unprivileged_userns_clone and user.max_user_namespaces"
        );
    }
    println!("ready");
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).is_err() || line.trim() != "mapped" {
        return "the ids were not mapped".to_owned();
    }
    if let Err(error) = own_mounts(directory) {
        return format!("{error}");
    }
    // The terminal's signals and its end are the daemon's, not the holder's.
    if let Err(errno) = rustix::process::setsid() {
        return format!("no session of its own: {errno}");
    }
    let quiet = || File::options().read(true).write(true).open("/dev/null");
    let (Ok(input), Ok(output), Ok(complaints)) = (quiet(), quiet(), quiet()) else {
        return "/dev/null cannot be opened".to_owned();
    };
    println!("done");
    let error = Command::new(keeper)
        .stdin(input)
        .stdout(output)
        .stderr(complaints)
        .current_dir("/")
        .exec();
    format!("{} cannot be run: {error}", keeper.display())
}

/// Mounts of the host still come in; none goes out. Names are asked of slirp4netns: the host's own
/// resolver may listen on a loopback that is not this one.
fn own_mounts(directory: &Path) -> Result<()> {
    berth_kernel::set_propagation(Path::new("/"), Propagation::Slave, true)
        .map_err(Error::kernel("keep mounts to itself"))?;
    let own = directory.join("resolv.conf");
    fs::write(&own, format!("nameserver {NAME_SERVER}\n")).map_err(Error::file("write", &own))?;
    // Often a link to a file of systemd-resolved.
    let target =
        fs::canonicalize(RESOLV_CONF).map_err(Error::file("find", Path::new(RESOLV_CONF)))?;
    let place = rustix::fs::open(&target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::kernel("open resolv.conf"))?;
    berth_kernel::clone_tree(CWD, &own, false)
        .and_then(|mount| berth_kernel::attach(mount, place))
        .map_err(Error::kernel("mount resolv.conf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_process_of_the_same_number_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        remember(directory.path(), own).unwrap();
        assert!(Holder::find(directory.path()).unwrap().is_some());
        let text = format!("{{\"pid\":{own},\"started\":1}}");
        fs::write(directory.path().join(RECORD), text).unwrap();
        assert!(Holder::find(directory.path()).unwrap().is_none());
        fs::write(directory.path().join(RECORD), "{").unwrap();
        assert!(Holder::find(directory.path()).unwrap().is_none());
    }
}
