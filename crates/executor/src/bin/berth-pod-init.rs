//! Process 1 of a pod that shares its PID namespace.
//!
//! It keeps the namespace alive, reaps what is orphaned in it, and ends on
//! SIGTERM or SIGINT; the kernel then ends everything else in the namespace.
//! It needs no files and, when linked statically, nothing of any image.

use berth_kernel::SignalDescriptor;
use berth_kernel::rustix::event::{PollFd, PollFlags, poll};
use berth_kernel::rustix::process::{WaitOptions, wait};
use std::process::ExitCode;

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

fn main() -> ExitCode {
    let Ok(signals) = SignalDescriptor::new(&[SIGINT, SIGTERM, SIGCHLD]) else {
        return ExitCode::FAILURE;
    };
    loop {
        // Orphans that ended before the signals were blocked are reaped in
        // the first round.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let mut fds = [PollFd::new(&signals, PollFlags::IN)];
        // An interrupted wait is only a reason to look again.
        let _ = poll(&mut fds, None);
        while let Ok(Some(info)) = signals.read() {
            if info.signal == SIGINT || info.signal == SIGTERM {
                return ExitCode::SUCCESS;
            }
        }
    }
}
