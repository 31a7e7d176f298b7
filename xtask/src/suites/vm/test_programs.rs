//! Tests of the rooms that make containers, built here, run in the machine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::command::{cargo, output, run};
use crate::outcome::Tally;
use crate::test::Reader;
use crate::workspace;

/// Package and targets whose behaviour depends on the cgroups of the host.
const CHOSEN: &[(&str, &[&str])] = &[
    ("berth-cgroups", &["berth_cgroups"]),
    ("berth-executor", &["containers"]),
    ("containerd-shim-berth-v1", &["container", "protocol"]),
    ("berth-oci", &["commands"]),
];

/// Hundreds of containers beside a process that never rests: the same on any kernel, and minutes
/// where it is emulated.
const RACES: &str = "races::";

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

    /// Runs it and counts; failures are shown.
    pub fn run(&self) -> Result<Tally> {
        let output = output(
            Command::new(&self.program)
                // Some tests wait for processes, which emulated are slow enough.
                .args(["--show-output", "--test-threads=1"])
                .arg(format!("--skip={RACES}"))
                .current_dir(&self.directory),
        )?;
        let mut reader = Reader::default();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(shown) = reader.take(line) {
                println!("    {shown}");
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
        println!("  {} {}: {tally}", self.package, self.name());
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
    for (package, targets) in CHOSEN {
        for target in *targets {
            if *target == package.replace('-', "_") {
                programs.extend(built(&["--package", package, "--lib"])?);
            } else {
                in_workspace.extend(["--test", target]);
            }
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
    let wanted: usize = CHOSEN.iter().map(|(_, targets)| targets.len()).sum();
    ensure!(
        programs.len() == wanted,
        "{} of {wanted} test programs were built",
        programs.len()
    );
    Ok(programs)
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
    let (package, _) = CHOSEN
        .iter()
        .find(|(package, targets)| targets.contains(&target) && names_package(&message, package))?;
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
