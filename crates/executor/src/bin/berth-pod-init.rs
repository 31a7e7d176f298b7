//! Process 1 of a pod that shares its PID namespace, or of a container that
//! asked for an init.
//!
//! ```text
//! berth-pod-init                    keeps the namespace alive, and ends on SIGTERM or SIGINT
//! docker-init -- PROGRAM ARGUMENTS  runs a program, hands it all signals, and ends as it does
//! ```
//!
//! Either way what is orphaned in the namespace is reaped, and the kernel ends
//! everything else in it with this process. It needs no files and, when linked
//! statically, nothing of any image.

use berth_kernel::rustix::event::{PollFd, PollFlags, poll};
use berth_kernel::rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use berth_kernel::{SignalDescriptor, pidfd_open, pidfd_send_signal, spawn_job};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::{Command, ExitCode};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;

/// Not to be blocked: they tell of faults of this process itself (ILL, TRAP,
/// ABRT, BUS, FPE, SEGV, SYS), or cannot be (KILL, STOP), or are the C
/// library's own.
const NOT_TAKEN: [i32; 11] = [4, 5, 6, 7, 8, 9, 11, 19, 31, 32, 33];
const HIGHEST_SIGNAL: i32 = 64;

/// As shells tell it: a program that is not there, and one that cannot run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// A signal's number is added to it.
const KILLED: i32 = 128;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        None => keep(),
        Some(dashes) if dashes == "--" => run(&words.collect::<Vec<_>>()),
        Some(_) => {
            eprintln!("docker-init: usage: docker-init -- PROGRAM ARGUMENTS");
            ExitCode::FAILURE
        }
    }
}

/// The namespace's only purpose is that others join it.
fn keep() -> ExitCode {
    let Ok(signals) = SignalDescriptor::new(&[SIGINT, SIGTERM, SIGCHLD]) else {
        return ExitCode::FAILURE;
    };
    loop {
        // Orphans that ended before the signals were blocked are reaped in
        // the first round.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        await_signal(&signals);
        while let Ok(Some(info)) = signals.read() {
            if info.signal == SIGINT || info.signal == SIGTERM {
                return ExitCode::SUCCESS;
            }
        }
    }
}

fn run(line: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = line.split_first() else {
        eprintln!("docker-init: no program to run");
        return ExitCode::from(NOT_FOUND);
    };
    // Blocked before there is a child: none that is meant for it is lost.
    let taken: Vec<i32> = (1..=HIGHEST_SIGNAL)
        .filter(|signal| !NOT_TAKEN.contains(signal))
        .collect();
    let Ok(signals) = SignalDescriptor::new(&taken) else {
        return ExitCode::FAILURE;
    };
    let mut command = Command::new(program);
    command.args(arguments);
    let child = match spawn_job(command) {
        Ok(child) => child,
        Err(error) => {
            let program = program.display();
            eprintln!("docker-init: exec {program} failed: {error}");
            return ExitCode::from(match error.kind() {
                ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            });
        }
    };
    let child = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    match child {
        Some(child) => serve(child, &signals),
        None => ExitCode::FAILURE,
    }
}

/// Until the child ends.
fn serve(child: Pid, signals: &SignalDescriptor) -> ExitCode {
    // It is not reaped before this function does so: the number is the child's.
    let Ok(handle) = pidfd_open(child) else {
        return ExitCode::FAILURE;
    };
    loop {
        while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
            if ended == child {
                return told(status);
            }
        }
        await_signal(signals);
        while let Ok(Some(info)) = signals.read() {
            // The last two are for whoever uses the terminal from behind: this process.
            if ![SIGCHLD, SIGTTIN, SIGTTOU].contains(&info.signal) {
                // One that has ended is seen in the next round.
                let _ = pidfd_send_signal(&handle, info.signal);
            }
        }
    }
}

fn await_signal(signals: &SignalDescriptor) {
    let mut fds = [PollFd::new(signals, PollFlags::IN)];
    // An interrupted wait is only a reason to look again.
    let _ = poll(&mut fds, None);
}

/// The child's exit code, or by which signal it ended as shells tell it.
fn told(status: WaitStatus) -> ExitCode {
    let code = status.exit_status();
    let signal = status.terminating_signal().map(|signal| KILLED + signal);
    let code = code.or(signal).and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(u8::MAX))
}
