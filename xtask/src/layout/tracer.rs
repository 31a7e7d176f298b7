//! Which functions of a running program are called: a breakpoint at the beginning of each, which is
//! taken away when it is reached.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::functions::{self, Functions};

/// `int3`.
const BREAKPOINT: u8 = 0xcc;
/// What the tracer says once it sees every call.
pub const READY: &str = "ready";

/// Follows the process with all its threads until it has ended, and writes down the names of what was
/// called, in the order of the first calls.
pub fn run(pid: i32, program: &Path, out: &Path) -> Result<()> {
    let functions = functions::of(program)?;
    let base = functions::loaded_at(pid)?;
    let threads = stop_all(pid)?;
    let mut traced = Traced {
        originals: set(pid, base, &functions)?,
        base,
        called: Vec::new(),
    };
    for thread in threads {
        ptrace::cont(thread, None).context("going on")?;
    }
    println!("{READY}");
    std::io::stdout().flush().context("telling")?;
    traced.follow()?;
    fs::write(out, functions::names(&functions, &traced.called))
        .with_context(|| format!("writing {}", out.display()))
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

/// Puts the breakpoints; answers with what was there before, by address.
fn set(pid: i32, base: u64, functions: &Functions) -> Result<Vec<(u64, u8)>> {
    let memory = memory(pid)?;
    let mut originals = Vec::with_capacity(functions.len());
    for &address in functions.keys() {
        let mut byte = [0];
        memory
            .read_exact_at(&mut byte, base + address)
            .context("reading code")?;
        memory
            .write_all_at(&[BREAKPOINT], base + address)
            .context("writing a breakpoint")?;
        originals.push((address, byte[0]));
    }
    Ok(originals)
}

fn memory(pid: i32) -> Result<File> {
    let path = format!("/proc/{pid}/mem");
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.context("opening memory")
}

struct Traced {
    base: u64,
    /// In the order of addresses.
    originals: Vec<(u64, u8)>,
    called: Vec<u64>,
}

impl Traced {
    fn follow(&mut self) -> Result<()> {
        loop {
            let goes_on = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("waiting"),
                // A breakpoint is no signal for it.
                Ok(WaitStatus::Stopped(thread, Signal::SIGTRAP)) if self.is_call(thread)? => {
                    ptrace::cont(thread, None)
                }
                Ok(WaitStatus::Stopped(thread, signal)) => ptrace::cont(thread, signal),
                // Another program, without our breakpoints.
                Ok(WaitStatus::PtraceEvent(thread, _, event))
                    if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 =>
                {
                    ptrace::detach(thread, None)
                }
                Ok(WaitStatus::PtraceEvent(thread, ..)) => ptrace::cont(thread, None),
                Ok(_) => continue,
            };
            match goes_on {
                // Killed meanwhile.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).context("going on"),
            }
        }
    }

    /// Takes the breakpoint away that a thread has reached, and has it go on at the function.
    fn is_call(&mut self, thread: Pid) -> Result<bool> {
        let mut registers = match ptrace::getregs(thread) {
            Err(Errno::ESRCH) => return Ok(true),
            got => got.context("reading registers")?,
        };
        let reached = registers.rip.wrapping_sub(1);
        let address = reached.wrapping_sub(self.base);
        let Ok(index) = self
            .originals
            .binary_search_by_key(&address, |entry| entry.0)
        else {
            return Ok(false);
        };
        let Some((_, original)) = self.originals.get(index).copied() else {
            return Ok(false);
        };
        // Of this very process: one that was forked has breakpoints of its own.
        memory(thread.as_raw())?
            .write_all_at(&[original], reached)
            .context("taking a breakpoint away")?;
        registers.rip = reached;
        ptrace::setregs(thread, registers).context("writing registers")?;
        if !self.called.contains(&address) {
            self.called.push(address);
        }
        Ok(true)
    }
}
