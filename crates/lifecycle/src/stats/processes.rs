//! Processes of a container as `/proc` shows them: one pass over their threads and descriptors.

use std::fs;
use std::path::Path;

/// Counts over all processes of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processes {
    pub processes: u64,
    pub descriptors: u64,
    /// Descriptors that are sockets.
    pub sockets: u64,
    pub states: TaskStates,
    /// Soft limit of the first process; `None` for no limit, or without one to look at.
    pub max_open_files: Option<u64>,
}

/// Threads by what they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskStates {
    pub sleeping: u64,
    pub running: u64,
    pub stopped: u64,
    /// Cannot be woken; most often they wait for I/O.
    pub uninterruptible: u64,
}

impl TaskStates {
    /// The letters of `proc_pid_stat(5)`.
    fn add(&mut self, letter: char) {
        match letter {
            'R' => self.running += 1,
            'S' | 'I' | 'P' => self.sleeping += 1,
            'T' | 't' => self.stopped += 1,
            'D' => self.uninterruptible += 1,
            // Zombies and the dead are no tasks that do anything.
            _ => {}
        }
    }
}

/// Looks at `pids`; what ends meanwhile is left out.
pub(super) fn look(pids: &[i32], first: Option<u32>) -> Processes {
    let mut found = Processes {
        processes: pids.len() as u64,
        max_open_files: first.and_then(max_open_files),
        ..Processes::default()
    };
    for pid in pids {
        let process = Path::new("/proc").join(pid.to_string());
        for task in entries(&process.join("task")) {
            if let Some(letter) = state(&task.join("stat")) {
                found.states.add(letter);
            }
        }
        for descriptor in entries(&process.join("fd")) {
            found.descriptors += 1;
            let socket = fs::read_link(descriptor).is_ok_and(|target| {
                target
                    .as_os_str()
                    .as_encoded_bytes()
                    .starts_with(b"socket:")
            });
            found.sockets += u64::from(socket);
        }
    }
    found
}

fn entries(dir: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
}

/// The letter after the name, which itself may hold blanks and parentheses.
fn state(stat: &Path) -> Option<char> {
    let text = fs::read_to_string(stat).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

fn max_open_files(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    soft_limit(&text, "Max open files")
}

fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn sockets_and_threads_of_a_process_are_seen() {
        let own = i32::try_from(std::process::id()).unwrap();
        let before = look(&[own], None);
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let after = look(&[own], Some(std::process::id()));
        assert_eq!(after.processes, 1);
        assert!(after.sockets > before.sockets, "{before:?} {after:?}");
        assert!(after.descriptors >= after.sockets);
        assert!(after.states.running >= 1, "this thread runs: {after:?}");
        assert!(after.max_open_files.is_some_and(|limit| limit > 0));
        assert_eq!(look(&[0x7fff_fffe], None).descriptors, 0);
    }

    #[test]
    fn limits_are_read_by_name() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 4096                 files\n\
                    Max locked memory         unlimited            unlimited            bytes\n";
        assert_eq!(soft_limit(text, "Max open files"), Some(1024));
        assert_eq!(soft_limit(text, "Max locked memory"), None);
        assert_eq!(soft_limit(text, "Max nothing"), None);
    }

    #[test]
    fn every_letter_is_counted_where_it_belongs() {
        let mut states = TaskStates::default();
        "RSSIDTtZX".chars().for_each(|letter| states.add(letter));
        let expected = TaskStates {
            sleeping: 3,
            running: 1,
            stopped: 2,
            uninterruptible: 1,
        };
        assert_eq!(states, expected);
    }
}
