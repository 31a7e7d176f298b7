//! Collecting dead children, ours and the orphans that come to a subreaper.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

use crate::process::Exit;

/// Reaps every child that is dead by now.
pub fn collect(mut exited: impl FnMut(i32, Exit)) {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => exited(pid.as_raw_nonzero().get(), Exit::now(status)),
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// Blocks until the process behind `pidfd` is dead. `false`: it is not, and the
/// deadline has passed.
pub fn wait_for(pidfd: Option<&OwnedFd>, deadline: Instant) -> bool {
    let Some(pidfd) = pidfd else {
        return false;
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return false;
        }
        let timeout = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut watched = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
}
