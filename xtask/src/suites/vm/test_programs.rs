//! Tests of the rooms that make containers, built here, run in the machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::Kind;
use crate::command::{cargo, output, run};
use crate::outcome::Tally;
use crate::test::Reader;
use crate::workspace;

/// A program with tests, and what of it says something in which machine.
struct Chosen {
    package: &'static str,
    target: &'static str,
    kinds: &'static [Kind],
    /// Parts of names, each of which has to be there; all tests where there is none.
    tests: &'static [&'static str],
}

/// What another kernel with other cgroups may change. Where systemd has the say, the executor's own
/// containers are beside its units as everywhere: those whose cgroups do something are enough.
const CHOSEN: &[Chosen] = &[
    Chosen {
        package: "berth-cgroups",
        target: "berth_cgroups",
        kinds: &Kind::ALL,
        tests: &["real_tests::"],
    },
    Chosen {
        package: "berth-executor",
        target: "containers",
        kinds: &[Kind::Cgroupfs],
        tests: &[],
    },
    Chosen {
        package: "berth-executor",
        target: "containers",
        kinds: &[Kind::Systemd],
        tests: &[
            "an_exec_joins_everything",
            "default_devices_work_and_others_cannot_be_opened",
            "the_cgroup_mount_shows_the_containers_own_cgroup",
            "pause_stops_and_resume_continues",
            "an_update_changes_the_cgroup",
            "all_processes_are_signalled",
            "a_container_is_started_and_entered_by_its_record",
            "devices_and_streams_work_for_a_user",
        ],
    },
    Chosen {
        package: "containerd-shim-berth-v1",
        target: "container",
        kinds: &Kind::ALL,
        tests: &[],
    },
    Chosen {
        package: "berth-oci",
        target: "commands",
        kinds: &[Kind::Cgroupfs],
        tests: &[],
    },
];

/// Hundreds of containers, some beside a process that never rests: the same on any kernel, and
/// minutes where it is emulated.
const ENDURANCE: [&str; 2] = ["races::", "two_hundred_lives"];

/// What one of them starts.
const EXAMPLE: &str = "process_shim";

/// One program with tests, and where it expects to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestProgram {
    package: String,
    program: PathBuf,
    directory: PathBuf,
}

impl fmt::Display for TestProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (program, directory) = (self.program.display(), self.directory.display());
        write!(f, "{}={program}={directory}", self.package)
    }
}

impl TestProgram {
    /// Reads what it is displayed as.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = text.split('=');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(package), Some(program), Some(directory)) => Ok(Self {
                package: package.to_owned(),
                program: program.into(),
                directory: directory.into(),
            }),
            _ => bail!("{text:?} names no test"),
        }
    }

    /// Runs what is chosen of it for this machine, and counts; failures are shown.
    pub fn run(&self, kind: Kind) -> Result<Tally> {
        let name = self.name();
        let mut tally = Tally::default();
        let of_it = |chosen: &&Chosen| chosen.package == self.package && chosen.target == name;
        let here = |chosen: &&Chosen| chosen.kinds.contains(&kind);
        for chosen in CHOSEN.iter().filter(of_it).filter(here) {
            let begin = Instant::now();
            let counted = self.run_tests(chosen.tests)?;
            let seconds = begin.elapsed().as_secs();
            println!("  {} {name}: {counted} in {seconds} s", self.package);
            tally += counted;
        }
        Ok(tally)
    }

    fn run_tests(&self, tests: &[&str]) -> Result<Tally> {
        let output = output(
            Command::new(&self.program)
                // Some tests wait for processes, which emulated are slow enough.
                .args(["--show-output", "--test-threads=1"])
                .args(ENDURANCE.map(|part| format!("--skip={part}")))
                .args(tests)
                .current_dir(&self.directory),
        )?;
        let mut reader = Reader::default();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(shown) = reader.take(line) {
                shown.print();
            }
        }
        let mut tally = reader.tally();
        if !output.status.success() {
            // Where a harness of its own says what failed.
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                println!("    {line}");
            }
        }
        if !output.status.success() && tally.failed == 0 {
            tally.check(
                &self.package,
                Err(anyhow::anyhow!("ended with {}", output.status)),
            );
        }
        let run = tally.passed + tally.failed + tally.skipped;
        ensure!(
            run >= tests.len().max(1),
            "{run} tests of {} in {}",
            tests.len().max(1),
            self.package
        );
        Ok(tally)
    }

    /// Without the hash that cargo appends.
    fn name(&self) -> String {
        let file = self
            .program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        file.rsplit_once('-')
            .map_or(&*file, |(name, _)| name)
            .to_owned()
    }
}

/// Builds the chosen tests and no others. All but those of a library are
/// selected in the whole workspace, so that what they need is compiled as for
/// every other build of it.
pub fn build() -> Result<Vec<TestProgram>> {
    println!("  building tests");
    let mut programs = Vec::new();
    let mut in_workspace = vec!["--workspace"];
    let mut wanted = 0;
    for (
        number,
        Chosen {
            package, target, ..
        },
    ) in CHOSEN.iter().enumerate()
    {
        if names_before(number).any(|name| name == (*package, *target)) {
            continue;
        }
        wanted += 1;
        if *target == package.replace('-', "_") {
            programs.extend(built(&["--package", package, "--lib"])?);
        } else {
            in_workspace.extend(["--test", target]);
        }
    }
    programs.extend(built(&in_workspace)?);
    run(cargo().current_dir(workspace::root()).args([
        "build",
        "--quiet",
        "--workspace",
        "--example",
        EXAMPLE,
    ]))?;
    ensure!(
        programs.len() == wanted,
        "{} of {wanted} test programs were built",
        programs.len()
    );
    Ok(programs)
}

/// Of the entries before this one: a program may have one for each machine.
fn names_before(number: usize) -> impl Iterator<Item = (&'static str, &'static str)> {
    let before = CHOSEN.iter().take(number);
    before.map(|chosen| (chosen.package, chosen.target))
}

fn built(selection: &[&str]) -> Result<Vec<TestProgram>> {
    let built = output(
        cargo()
            .current_dir(workspace::root())
            .args(["test", "--no-run", "--quiet", "--message-format=json"])
            .args(selection),
    )?;
    ensure!(
        built.status.success(),
        "building the tests: {}",
        String::from_utf8_lossy(&built.stderr).trim()
    );
    let text = String::from_utf8_lossy(&built.stdout);
    Ok(text.lines().filter_map(chosen).collect())
}

/// A test that is wanted, from one of cargo's messages.
fn chosen(line: &str) -> Option<TestProgram> {
    let message: Value = serde_json::from_str(line).ok()?;
    let program = message["executable"].as_str()?;
    if message["profile"]["test"] != true {
        return None;
    }
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let target = message["target"]["name"].as_str()?;
    let directory = manifest.parent()?;
    let Chosen { package, .. } = CHOSEN
        .iter()
        .find(|chosen| chosen.target == target && names_package(&message, chosen.package))?;
    Some(TestProgram {
        package: (*package).to_owned(),
        program: program.into(),
        directory: directory.to_owned(),
    })
}

/// Ids end in `path+file:///…/crates/name#version` or `#name@version`.
fn names_package(message: &Value, package: &str) -> bool {
    let id = message["package_id"].as_str().unwrap_or_default();
    let short = package.trim_start_matches("berth-");
    id.contains(&format!("#{package}@")) || id.contains(&format!("/{short}#"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_and_read_back() {
        let line = r#"{"reason":"compiler-artifact","executable":"/t/deps/containers-12ab",
            "package_id":"path+file:///w/crates/executor#berth-executor@0.1.0",
            "manifest_path":"/w/crates/executor/Cargo.toml",
            "target":{"name":"containers"},"profile":{"test":true}}"#;
        let line = line.replace('\n', "");
        let program = chosen(&line).unwrap();
        assert_eq!(program.name(), "containers");
        assert_eq!(TestProgram::parse(&program.to_string()).unwrap(), program);
        assert!(chosen(&line.replace("true", "false")).is_none());
        assert!(chosen(&line.replace("executor", "network")).is_none());
        assert!(TestProgram::parse("a=b").is_err());
    }
}
