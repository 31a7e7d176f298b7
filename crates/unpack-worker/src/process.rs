//! The worker is two processes: one that waits outside, and one in namespaces of its own. A PID
//! namespace begins with a child.

use std::io;
use std::os::fd::AsFd;

use berth_kernel::{Clone3, Cloned, Namespace, NamespaceSet, pidfd_send_signal};
use rustix::process::{WaitId, WaitIdOptions, waitid};

const SIGKILL: i32 = 9;

/// Which of the two this is.
pub(crate) enum Side {
    /// The other has ended with this status, as shells tell it.
    Outer(u8),
    Inner,
}

/// Has the kernel kill this process when the thread that started it ends.
pub(crate) fn end_with_parent() -> io::Result<()> {
    Ok(berth_kernel::set_parent_death_signal(SIGKILL)?)
}

/// Goes on in a child with namespaces of its own; the caller waits for its end.
pub(crate) fn apart() -> io::Result<Side> {
    let namespaces = NamespaceSet::EMPTY
        .with(Namespace::Mount)
        .with(Namespace::Pid)
        .with(Namespace::Network)
        .with(Namespace::Ipc)
        .with(Namespace::Uts)
        .with(Namespace::Cgroup);
    let clone = Clone3 {
        namespaces,
        ..Clone3::default()
    };
    match clone.run()? {
        Cloned::Child => {
            end_with_parent()?;
            Ok(Side::Inner)
        }
        Cloned::Parent { pidfd, .. } => loop {
            let ended = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            match ended {
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    let _has_ended = pidfd_send_signal(&pidfd, SIGKILL);
                    return Err(errno.into());
                }
                Ok(status) => return Ok(Side::Outer(status.map_or(1, |status| told(&status)))),
            }
        },
    }
}

fn told(status: &rustix::process::WaitIdStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    let code = signal.or(status.exit_status()).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
