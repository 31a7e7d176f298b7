//! Which functions programs call: a process is followed with everything that comes of it, and wherever one
//! of the programs begins to run, its calls are noted.

use std::fs;
use std::io::Write;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc::user_regs_struct;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::program::Program;

/// What the tracer says once it sees every call.
pub const READY: &str = "ready";

/// Follows the process until it and what it brought forth have ended, or run other programs.
pub fn follow(pid: i32, programs: &mut [Program]) -> Result<()> {
    let threads = stop_all(pid)?;
    if let Some(program) = programs.iter_mut().find(|it| it.is_of(pid)) {
        program.watch(pid)?;
    }
    for thread in threads {
        ptrace::cont(thread, None).context("going on")?;
    }
    println!("{READY}");
    std::io::stdout().flush().context("telling")?;
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Err(Errno::ECHILD) => return Ok(()),
            Err(Errno::EINTR) => continue,
            other => other.context("waiting")?,
        };
        match handle(status, programs)? {
            // Killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).context("going on"),
        }
    }
}

/// Takes hold of all threads, also of those that begin meanwhile.
fn stop_all(pid: i32) -> Result<Vec<Pid>> {
    let options = Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    let mut threads: Vec<Pid> = Vec::new();
    loop {
        let mut more = false;
        for entry in fs::read_dir(format!("/proc/{pid}/task")).context("listing threads")? {
            let name = entry.context("listing threads")?.file_name();
            let number = name.to_string_lossy().parse().context("reading a thread")?;
            let thread = Pid::from_raw(number);
            if threads.contains(&thread) {
                continue;
            }
            match ptrace::seize(thread, options) {
                Ok(()) => {}
                // It is followed since it began, or has ended.
                Err(Errno::EPERM | Errno::ESRCH) => continue,
                Err(error) => return Err(error).context("taking hold of a thread"),
            }
            ptrace::interrupt(thread).context("stopping a thread")?;
            waitpid(thread, Some(WaitPidFlag::__WALL)).context("waiting for a thread")?;
            threads.push(thread);
            more = true;
        }
        if !more {
            return Ok(threads);
        }
    }
}

/// The outer error is ours, the inner one tells of a thread that could not go on.
fn handle(status: WaitStatus, programs: &mut [Program]) -> Result<nix::Result<()>> {
    Ok(match status {
        // A breakpoint is no signal for it.
        WaitStatus::Stopped(thread, Signal::SIGTRAP) if reached(thread, programs)? => {
            ptrace::cont(thread, None)
        }
        WaitStatus::Stopped(thread, signal) => ptrace::cont(thread, signal),
        WaitStatus::PtraceEvent(thread, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 => {
            let pid = thread.as_raw();
            match programs.iter_mut().find(|it| it.is_of(pid)) {
                Some(program) => {
                    program.watch(pid)?;
                    ptrace::cont(thread, None)
                }
                // A container's, or a helper of the system.
                None => ptrace::detach(thread, None),
            }
        }
        WaitStatus::PtraceEvent(thread, ..) => ptrace::cont(thread, None),
        _ => Ok(()),
    })
}

/// Has a thread that has reached a breakpoint of ours go on at its function.
fn reached(thread: Pid, programs: &mut [Program]) -> Result<bool> {
    let pid = thread.as_raw();
    let Some(program) = programs.iter_mut().find(|it| it.is_of(pid)) else {
        return Ok(false);
    };
    let mut registers = match ptrace::getregs(thread) {
        Err(Errno::ESRCH) => return Ok(true),
        got => got.context("reading registers")?,
    };
    let at = next(&mut registers).wrapping_sub(1);
    match program.is_call(pid, at) {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        Err(_) if !program.is_of(pid) => return Ok(true),
        Err(error) => return Err(error),
    }
    *next(&mut registers) = at;
    ptrace::setregs(thread, registers).context("writing registers")?;
    Ok(true)
}

/// The place of the next instruction.
#[cfg(target_arch = "x86_64")]
fn next(registers: &mut user_regs_struct) -> &mut u64 {
    &mut registers.rip
}

/// The same, so that this compiles where programs are not followed.
#[cfg(not(target_arch = "x86_64"))]
fn next(registers: &mut user_regs_struct) -> &mut u64 {
    &mut registers.pc
}
