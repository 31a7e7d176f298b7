//! The processes of a container that no cgroup holds.

use berth_kernel::rustix::process::Pid;
use berth_kernel::{Errno, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// `init` and what shares a PID namespace with it, where that is not the caller's own.
pub(crate) fn beside(init: i32) -> Vec<i32> {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/pid")).ok();
    let of_init = namespace(&init.to_string());
    if of_init.is_none() || of_init == namespace("self") {
        return vec![init];
    }
    let shares = |pid: &i32| namespace(&pid.to_string()) == of_init;
    all().filter(shares).collect()
}

/// Signals `init` and what shares a PID namespace with it. Those that end meanwhile have got what
/// they were to get.
pub(crate) fn signal(init: i32, signal: i32) -> Result<()> {
    for pid in beside(init) {
        let Some(number) = Pid::from_raw(pid) else {
            continue;
        };
        let sent = berth_kernel::pidfd_open(number)
            // Seen once more now that it cannot become another.
            .and_then(|pidfd| match beside(init).contains(&pid) {
                true => berth_kernel::pidfd_send_signal(&pidfd, signal),
                false => Ok(()),
            });
        match sent {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(Path::new("/proc")).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter_map(|path: PathBuf| path.file_name()?.to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_callers_own_namespace_it_is_the_process_alone() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(beside(own), vec![own]);
    }
}
