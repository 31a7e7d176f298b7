//! What a process has started, and what that has, whatever sessions and groups they have begun.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;

use berth_kernel::rustix::process::Pid;

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;
/// Looks at the process table; one that forks faster than it is stopped is not followed for ever.
const LOOKS: usize = 16;

/// Kills everything below `ancestor`, a child that has not been reaped, and stops that one. Each is
/// stopped before any is killed: what loses its parent is nobody's descendant any more.
pub fn kill(ancestor: i32) {
    let mut held = BTreeMap::new();
    if let Some(pidfd) = open(ancestor) {
        signal(&pidfd, SIGSTOP);
    }
    for _ in 0..LOOKS {
        let before = held.len();
        let parents = parents();
        for (pid, parent) in below(ancestor, &parents) {
            if held.contains_key(&pid) {
                continue;
            }
            // Seen once more now that it cannot become another.
            if let Some(pidfd) = open(pid)
                && parent_of(pid) == Some(parent)
            {
                signal(&pidfd, SIGSTOP);
                held.insert(pid, pidfd);
            }
        }
        if held.len() == before {
            break;
        }
    }
    for pidfd in held.values() {
        signal(pidfd, SIGKILL);
    }
}

fn open(pid: i32) -> Option<OwnedFd> {
    berth_kernel::pidfd_open(Pid::from_raw(pid)?).ok()
}

/// One that has ended needs none.
fn signal(pidfd: &OwnedFd, number: i32) {
    let _ = berth_kernel::pidfd_send_signal(pidfd, number);
}

/// Each with its parent.
fn below(ancestor: i32, parents: &BTreeMap<i32, i32>) -> Vec<(i32, i32)> {
    let mut found = Vec::new();
    let mut next = vec![ancestor];
    while let Some(parent) = next.pop() {
        let children = parents.iter().filter(|(_, known)| **known == parent);
        for (pid, _) in children {
            found.push((*pid, parent));
            next.push(*pid);
        }
    }
    found
}

/// The parent of every process.
fn parents() -> BTreeMap<i32, i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| Some((pid, parent_of(pid)?)))
        .collect()
}

/// proc_pid_stat(5): the name in brackets may hold anything, the state and the parent follow it.
fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::{Duration, Instant};

    #[test]
    fn what_began_a_session_of_its_own_ends_as_well() {
        let script = "setsid sleep 1000 & sh -c 'setsid sleep 1000 & wait' & wait";
        let mut ancestor = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = i32::try_from(ancestor.id()).unwrap();
        let sleeps = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "sleep")
        };
        let soon = Instant::now() + Duration::from_secs(20);
        let started = loop {
            let found = below(pid, &parents()).into_iter().map(|(pid, _)| pid);
            let found: Vec<i32> = found.filter(sleeps).collect();
            if found.len() == 2 {
                break found;
            }
            assert!(Instant::now() < soon, "{found:?}");
            std::thread::sleep(Duration::from_millis(10));
        };
        kill(pid);
        for pid in started {
            // Whoever reaps orphans may come later.
            while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
            {
                assert!(Instant::now() < soon, "{pid} lives");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        ancestor.kill().unwrap();
        ancestor.wait().unwrap();
    }
}
