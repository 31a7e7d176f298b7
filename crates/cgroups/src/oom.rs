//! What the kernel's out-of-memory killer did to a cgroup, while it is there and afterwards.

use crate::cgroup::{Cgroup, Home};
use crate::control::{ControlDir, flat_value};
use crate::error::Result;
use crate::layout::Controller;

/// The unified tree's counts, of a cgroup and those below it (cgroup-v2.rst, "memory.events").
const EVENTS: &str = "memory.events";
const KILLS: &str = "oom_kill";

/// The count one level above a scope. systemd takes a scope away as soon as it is empty, at times before
/// anybody has read what was counted in it; what was counted above stays. Kills in neighbours count there as
/// well, so the scope's own count comes first, as long as there is one.
#[derive(Debug)]
pub struct KillsAbove {
    directory: ControlDir,
    before: u64,
}

impl KillsAbove {
    /// Whether there were kills since this was asked for.
    #[must_use]
    pub fn have_risen(&self) -> bool {
        kills(&self.directory).is_some_and(|now| now > self.before)
    }
}

impl Cgroup {
    /// How many processes the kernel's out-of-memory killer has killed here
    /// and below since the cgroup was made. 0 if the kernel does not count.
    pub fn oom_kills(&self) -> Result<u64> {
        let (directory, file) = match self.home(Controller::Memory) {
            Some(Home::V1(directory)) => (directory, "memory.oom_control"),
            Some(Home::V2(directory)) => (directory, EVENTS),
            None => return Ok(0),
        };
        match directory.read_optional(file)? {
            Some(content) => Ok(flat_value(&content, KILLS).unwrap_or(0)),
            None if directory.exists() => Ok(0),
            None => Err(self.not_found()),
        }
    }

    /// None where the cgroup stays until it is removed, or nothing is counted above it.
    #[must_use]
    pub fn kills_above(&self) -> Option<KillsAbove> {
        self.unit()?;
        let Home::V2(directory) = self.home(Controller::Memory)? else {
            return None;
        };
        let directory = ControlDir::new(directory.path().parent()?.to_owned());
        let before = kills(&directory)?;
        Some(KillsAbove { directory, before })
    }
}

fn kills(directory: &ControlDir) -> Option<u64> {
    let content = directory.read_optional(EVENTS).ok()??;
    flat_value(&content, KILLS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeTree;

    #[test]
    fn what_is_counted_above_is_told_once_the_cgroup_is_gone() {
        let tree = FakeTree::v2("memory");
        tree.put("pod.slice", EVENTS, "oom 7\noom_kill 2\n");
        let directory = ControlDir::new(tree.root().join("pod.slice"));
        let before = kills(&directory).unwrap();
        let above = KillsAbove { directory, before };
        assert!(!above.have_risen());
        tree.put("pod.slice", EVENTS, "oom 8\noom_kill 3\n");
        assert!(above.have_risen());
        std::fs::remove_dir_all(tree.root().join("pod.slice")).unwrap();
        assert!(!above.have_risen());
    }

    #[test]
    fn a_cgroup_that_nobody_takes_away_answers_for_itself() {
        let tree = FakeTree::v2("memory");
        tree.put("pod", EVENTS, "oom_kill 2\n");
        assert!(tree.cgroup("/pod/container").kills_above().is_none());
    }
}
