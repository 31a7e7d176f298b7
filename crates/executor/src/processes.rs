//! The processes of a container that no cgroup holds.

use berth_kernel::rustix::process::Pid;
use berth_kernel::{Errno, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// `init` and what shares a PID namespace with it, where that is not the caller's own.
pub(crate) fn beside(init: i32) -> Vec<i32> {
    match apart(init) {
        Some(namespace) => all().filter(|pid| is_in(&namespace, *pid)).collect(),
        None => vec![init],
    }
}

/// Signals `init` and what shares a PID namespace with it. Those that end meanwhile have got what
/// they were to get.
pub(crate) fn signal(init: i32, signal: i32) -> Result<()> {
    let namespace = apart(init);
    for pid in beside(init) {
        let Some(number) = Pid::from_raw(pid) else {
            continue;
        };
        let sent = berth_kernel::pidfd_open(number).and_then(|pidfd| {
            // Seen once more now that it cannot become another.
            let is_meant = namespace.as_ref().is_none_or(|own| is_in(own, pid));
            match is_meant {
                true => berth_kernel::pidfd_send_signal(&pidfd, signal),
                false => Ok(()),
            }
        });
        match sent {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The PID namespace of `init`, if it is known and not the caller's own.
fn apart(init: i32) -> Option<PathBuf> {
    let namespace = namespace_of(init)?;
    let own = fs::read_link("/proc/self/ns/pid").ok();
    (own.as_ref() != Some(&namespace)).then_some(namespace)
}

fn is_in(namespace: &PathBuf, pid: i32) -> bool {
    namespace_of(pid).as_ref() == Some(namespace)
}

fn namespace_of(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
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
