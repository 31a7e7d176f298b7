//! Programs in a process group of their own, as an init starts them.

#![allow(unsafe_code)] // what runs between fork and exec

use crate::reset_signals;
use rustix::process::getpgrp;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Starts a program as the leader of a process group, in the foreground of the
/// terminal that its standard input is, where it is one; its signals are as
/// new, whatever the caller blocks.
///
/// The caller blocks `SIGTTOU`: who is not in the foreground and wants to
/// change who is gets it (`tcsetpgrp(3)`).
///
/// By fork, not by clone3: seccomp profiles of containers let nobody use that.
pub fn spawn_job(mut command: Command) -> io::Result<Child> {
    let terminal = io::stdin();
    let prepare = move || {
        // Without a terminal there is no foreground.
        let _ = rustix::termios::tcsetpgrp(&terminal, getpgrp());
        reset_signals().map_err(io::Error::from)
    };
    command.process_group(0);
    // SAFETY: system calls only: no heap, no locks. The group is set before.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[test]
    fn a_job_leads_a_group_and_has_no_signal_blocked() {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "ps -o pgid= -p $$; echo $$; grep -E 'SigBlk' /proc/self/status",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let output = std::thread::spawn(move || {
            crate::block_signals(&[libc::SIGTERM, libc::SIGTTOU]).unwrap();
            spawn_job(command).unwrap().wait_with_output().unwrap()
        });
        let output = output.join().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words[0], words[1], "{text}");
        assert_eq!(words[3], "0000000000000000", "{text}");
    }
}
