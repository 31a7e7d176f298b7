use super::{CONSOLE_SOCKET, DETACH, PID_FILE, PIDFD_SOCKET, PRESERVE_FDS, id};
use crate::arguments::{Arguments, Flag, list, switch, value};
use crate::console::Receiver;
use crate::descriptors;
use crate::error::{Error, Result};
use crate::foreground::Foreground;
use crate::global::Global;
use crate::journal::Journal;
use crate::pid_file;
use crate::process_spec;
use crate::store;
use crate::streams::Terminal;
use berth_cgroups::CgroupHost;
use berth_executor::{Process, ProcessOptions};
use std::os::fd::AsFd;

pub const FLAGS: &[Flag] = &[
    CONSOLE_SOCKET,
    PIDFD_SOCKET,
    value("cwd", "", "current working directory in the container"),
    list("env", "e", "set environment variables"),
    switch("tty", "t", "allocate a pseudo-TTY"),
    value("user", "u", "UID (format: <uid>[:<gid>])"),
    list("additional-gids", "g", "additional gids"),
    value("process", "p", "path to the process.json"),
    DETACH,
    PID_FILE,
    value("process-label", "", "set the selinux label of the process"),
    value("apparmor", "", "set the apparmor profile for the process"),
    switch(
        "no-new-privs",
        "",
        "set the no new privileges value for the process",
    ),
    list(
        "cap",
        "c",
        "add a capability to the bounding set for the process",
    ),
    PRESERVE_FDS,
    list(
        "cgroup",
        "",
        "run the process in a cgroup below the container's, which exists",
    ),
    switch("ignore-paused", "", "allow exec in a paused container"),
];

pub fn run(global: &Global, journal: &Journal, given: &Arguments) -> Result<u8> {
    let below = cgroup(given)?;
    let state = store::read(&global.root, id(given))?;
    let mut container = match store::load_alive(&state) {
        Err(Error::NotRunning) => return Err(Error::ExecInStopped),
        loaded => loaded?,
    };
    if !given.is_on("ignore-paused") && container.cgroup().is_frozen().unwrap_or(false) {
        return Err(Error::ExecInPaused);
    }
    if let Some(below) = below {
        let host = CgroupHost::detect().map_err(Error::Cgroups)?;
        container.exec_below(below, &host)?;
    }
    let pid_file = pid_file::locate(given.value("pid-file"))?;
    let detach = given.is_on("detach");
    let spec = process_spec::of_exec(&state, given)?;
    let socket = given.value("console-socket");
    let terminal = Terminal::choose(spec.terminal().unwrap_or(false), detach, socket)?;
    let console = Receiver::connect_if(socket)?;
    let pidfd = Receiver::connect_if(given.value("pidfd-socket"))?;
    let asked = given.number("preserve-fds")?.unwrap_or(0);
    let options = ProcessOptions {
        preserved_fds: descriptors::preserved(0, asked)?,
        keep_keyring: false,
        ..ProcessOptions::default()
    };
    let foreground = if detach {
        None
    } else {
        Some(Foreground::new()?)
    };

    let mut process = container.exec_with(&spec, terminal.streams(), options)?;
    let notices = process.notices.iter();
    notices.for_each(|notice| journal.warning(notice));
    let handed = hand_over(&mut process, console.as_ref(), pidfd.as_ref())
        .and_then(|()| pid_file.map_or(Ok(()), |path| pid_file::write(&path, process.pid)));
    if let Err(error) = handed {
        let _ = berth_kernel::pidfd_send_signal(&process.pidfd, crate::signal::SIGKILL);
        return Err(error);
    }
    wait(foreground, process)
}

/// One path for all hierarchies.
fn cgroup(given: &Arguments) -> Result<Option<&str>> {
    let named = given.list("cgroup");
    if named.len() > 1 || named.iter().any(|name| name.contains([':', ','])) {
        return Err(Error::Unsupported {
            feature: "--cgroup for single controllers",
            instead: "give one path, which is used in all hierarchies",
        });
    }
    Ok(named.first().copied())
}

fn hand_over(
    process: &mut Process,
    console: Option<&Receiver>,
    pidfd: Option<&Receiver>,
) -> Result<()> {
    if let (Some(console), Some(master)) = (console, &process.terminal) {
        console.send(master.as_fd(), "/dev/ptmx")?;
        // The receiver's alone: with a copy here, its end would not come.
        process.terminal = None;
    }
    if let Some(receiver) = pidfd {
        receiver.send(process.pidfd.as_fd(), "pidfd")?;
    }
    Ok(())
}

fn wait(foreground: Option<Foreground>, process: Process) -> Result<u8> {
    match foreground {
        None => Ok(0),
        Some(foreground) => foreground.wait(process.pid, process.pidfd.as_fd(), process.terminal),
    }
}
