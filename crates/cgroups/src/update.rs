//! Changing the resources of a cgroup whole or not at all.
//!
//! While an update is under way each directory notes what a control file held
//! before its first write. After a failure the notes are written back, newest
//! first. Limits that depend on each other (memory and swap, quota and burst)
//! may refuse that order, so what was refused is tried again after the rest.

use crate::cgroup::Cgroup;
use crate::control::{ControlDir, flat_value};
use crate::devices::DevicePrograms;
use crate::error::{Error, Result};
use crate::systemd;
use oci_spec::runtime::LinuxResources;
use std::io;

impl Cgroup {
    /// [`Cgroup::apply_with`] for a cgroup in use: when a value is refused,
    /// those written before it are what they were.
    ///
    /// Device rules cannot be read and are not restored; a caller that changes
    /// them gives all of them.
    pub fn update_with(
        &self,
        resources: &LinuxResources,
        programs: &dyn DevicePrograms,
    ) -> Result<()> {
        if self.is_nowhere() {
            return Err(Error::Absent);
        }
        for (_, directory) in self.members() {
            directory.begin_notes();
        }
        let mut outcome = self.apply_with(resources, programs);
        if let (Ok(()), Some(unit)) = (&outcome, self.unit()) {
            // Only after the files took it: systemd would write a limit below
            // the usage, and the kernel kill for it. When it is told, it
            // writes what it knows of, so the files come once more.
            outcome = systemd::set_properties(unit, resources)
                .and_then(|()| self.apply_with(resources, programs));
        }
        for (_, directory) in self.members() {
            let notes = directory.end_notes();
            if outcome.is_err() {
                restore(directory, notes);
            }
        }
        outcome
    }

    /// [`Cgroup::update_with`] without device rules.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.update_with(resources, &crate::devices::NoPrograms)
    }
}

/// Best effort: the error to tell is the first one, and the kernel took these
/// values before.
fn restore(directory: &ControlDir, notes: Vec<(String, String)>) {
    let rewrite = |(file, content): &(String, String)| rewrite(directory, file, content).is_err();
    let refused: Vec<_> = notes.into_iter().rev().filter(rewrite).collect();
    let _ = refused.iter().filter(|note| rewrite(note)).count();
}

/// Writes what was read, in the form in which it is taken.
fn rewrite(directory: &ControlDir, file: &str, content: &str) -> io::Result<()> {
    if let Some(disabled) = flat_value(content, "oom_kill_disable") {
        return directory.try_write(file, &disabled.to_string());
    }
    if content.trim().is_empty() {
        // An empty write does not reach the kernel.
        return directory.try_write(file, "\n");
    }
    // Tables by device take a line at a time.
    content
        .lines()
        .try_for_each(|line| directory.try_write(file, line))
}

#[cfg(test)]
mod tests {
    use crate::fake::FakeTree;
    use oci_spec::runtime::{
        LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder,
    };
    use std::collections::HashMap;

    fn resources(unified: &[(&str, &str)]) -> LinuxResources {
        let cpu = LinuxCpuBuilder::default()
            .cpus("1")
            .shares(512u64)
            .quota(7000i64)
            .build()
            .unwrap();
        let memory = LinuxMemoryBuilder::default().limit(1000i64).swap(2000i64);
        let unified: HashMap<_, _> = unified
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        LinuxResourcesBuilder::default()
            .cpu(cpu)
            .memory(memory.build().unwrap())
            .unified(unified)
            .build()
            .unwrap()
    }

    #[test]
    fn what_was_written_before_a_refused_value_is_put_back() {
        const BEFORE: [(&str, &str); 5] = [
            ("cpuset.cpus", ""),
            ("cpu.weight", "100"),
            ("cpu.max", "max 100000"),
            ("memory.max", "max"),
            ("memory.swap.max", "0"),
        ];
        let tree = FakeTree::v2("cpu cpuset memory");
        let cgroup = tree.cgroup("/a");
        tree.put("a", "memory.current", "0");
        for (file, value) in BEFORE {
            tree.put("a", file, value);
        }
        // The last thing to be written, and no such file.
        let refused = resources(&[("memory.missing", "1")]);
        assert!(cgroup.update(&refused).is_err());
        for (file, value) in BEFORE {
            assert_eq!(tree.get("a", file).trim(), value, "{file}");
        }
        cgroup.update(&resources(&[])).unwrap();
        for (file, value) in [
            ("cpuset.cpus", "1"),
            ("cpu.weight", "59"),
            ("memory.max", "1000"),
            ("memory.swap.max", "1000"),
        ] {
            assert_eq!(tree.get("a", file), value, "{file}");
        }
        // Outside of an update nothing is put back.
        assert!(cgroup.apply(&refused).is_err());
        assert_eq!(tree.get("a", "memory.max"), "1000");
    }

    #[test]
    fn a_table_is_put_back_line_by_line_and_a_switch_as_its_number() {
        let tree = FakeTree::v1(&["memory"]);
        let cgroup = tree.cgroup("/a");
        let directory = cgroup.v1(crate::Controller::Memory).unwrap();
        tree.put("memory/a", "table", "");
        super::rewrite(directory, "table", "8:0 1\n8:16 2\n").unwrap();
        assert_eq!(tree.get("memory/a", "table"), "8:16 2");
        super::rewrite(directory, "table", "oom_kill_disable 1\nunder_oom 0\n").unwrap();
        assert_eq!(tree.get("memory/a", "table"), "1");
    }
}
