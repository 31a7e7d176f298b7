//! Everything that has to hold before a change lands, in the order of cost.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::command::{cargo, run as run_command};
use crate::outcome::{Tally, tell_failure};
use crate::tools::Tool;
use crate::{artefacts, lint, suites, tools, workspace};

type Suite = fn() -> Result<Tally>;

const SUITES: [(&str, Suite); 12] = [
    ("oci", suites::oci::run),
    ("containerd", suites::containerd::run),
    ("vm", suites::vm::run_all),
    ("crictl", suites::crictl::run),
    ("docker", suites::docker::run),
    ("berth", suites::berth::run),
    ("node", suites::node::run),
    ("hostile", suites::hostile::run),
    ("crash", || {
        suites::crash::run(&suites::crash::Wanted::default())
    }),
    ("trace", suites::trace::run),
    ("kubelet", suites::kubelet::run),
    ("critest", suites::critest::run),
];

/// Runs all steps, also after a failed one.
pub fn run() -> Result<Tally> {
    let mut tally = Tally::default();
    let mut clock = Clock::start();
    println!("format and lints");
    tally.check(
        "formatted",
        run_command(in_root().args(["fmt", "--all", "--check"])),
    );
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    tally.check("clippy is content", run_command(in_root().args(clippy)));
    tally += lint::run()?;

    clock.tell("format and lints");

    println!("tools and programs");
    let installed = tools::install();
    clock.tell("tools");
    let can_drive = installed.is_ok();
    tally.check("tools are there", installed);
    let built = artefacts::build();
    let can_drive = can_drive && built.is_ok();
    tally.check("programs build", built);
    clock.tell("programs");

    println!("tests of the workspace");
    tally += workspace_tests()?;
    clock.tell("tests of the workspace");

    for (name, suite) in SUITES {
        if !can_drive {
            tally.skip(name, "tools or programs are missing");
            continue;
        }
        match suite() {
            Ok(counted) => tally += counted,
            Err(error) => tally.check(name, Err(error)),
        }
        clock.tell(name);
    }
    Ok(tally)
}

/// Says what takes the time.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn tell(&mut self, what: &str) {
        let seconds = self.0.elapsed().as_secs();
        println!(
            "  took    {what}: {} min {:02} s",
            seconds / 60,
            seconds % 60
        );
        self.0 = Instant::now();
    }
}

fn in_root() -> std::process::Command {
    let mut command = cargo();
    command.current_dir(workspace::root());
    command
}

/// Counts from cargo's own lines. Tests that cannot run here pass and say why
/// on a line that begins with `skipped:`; they are counted as skipped.
fn workspace_tests() -> Result<Tally> {
    let path = workspace::logs()?.join("cargo-test.log");
    let mut log =
        fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let mut child = in_root()
        .env("BERTH_CNI_BIN_DIR", tools::path(Tool::CniPlugins)?)
        .args([
            "test",
            "--workspace",
            "--no-fail-fast",
            "--",
            "--show-output",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let output = child.stdout.take().context("output of cargo test")?;
    let mut reader = Reader::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("reading cargo test")?;
        writeln!(log, "{line}").context("writing the log of cargo test")?;
        if let Some(shown) = reader.take(&line) {
            shown.print();
        }
    }
    let status = child.wait().context("waiting for cargo test")?;
    let mut tally = reader.tally();
    if !status.success() && tally.failed == 0 {
        tally.check("cargo test", Err(anyhow::anyhow!("ended with {status}")));
    }
    println!("  workspace: {tally} ({})", path.display());
    Ok(tally)
}

/// What people should see of the output of the test harness.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown {
    Skip(String),
    Failure(String),
}

impl Shown {
    pub fn print(&self) {
        match self {
            Self::Skip(line) => println!("  {line}"),
            Self::Failure(line) => tell_failure(line),
        }
    }
}

/// Follows the output of the test harness.
#[derive(Debug, Default)]
pub struct Reader {
    counted: Tally,
    /// Test whose captured output is being shown.
    section: Option<String>,
    /// Skips among the passed ones.
    skips: usize,
    skipped_here: bool,
    in_failures: bool,
    /// The last line named a failure; a harness of our own says why below it.
    just_failed: bool,
}

impl Reader {
    /// Takes one line; answers with what people should see of it.
    pub fn take(&mut self, line: &str) -> Option<Shown> {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.section = None;
            self.in_failures = false;
            self.counted += counts(result);
            return None;
        }
        match line {
            "successes:" => self.in_failures = false,
            "failures:" => self.in_failures = true,
            _ => {}
        }
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.split(' ').next())
        {
            self.section = Some(name.to_owned());
            self.skipped_here = false;
        }
        if let (Some(section), Some(reason)) = (&self.section, line.strip_prefix("skipped:")) {
            if self.skipped_here || self.in_failures {
                return None;
            }
            self.skipped_here = true;
            self.skips += 1;
            return Some(Shown::Skip(format!("skipped {section}:{reason}")));
        }
        let failed = line.starts_with("test ") && line.ends_with("FAILED");
        let explains = self.just_failed && line.starts_with("    ");
        self.just_failed = failed || explains;
        (failed || explains || self.in_failures).then(|| Shown::Failure(line.to_owned()))
    }

    pub fn tally(&self) -> Tally {
        let skips = self.skips.min(self.counted.passed);
        Tally {
            passed: self.counted.passed - skips,
            skipped: self.counted.skipped + skips,
            ..self.counted
        }
    }
}

/// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`
fn counts(result: &str) -> Tally {
    let count = |what: &str| {
        let mut words = result.split([' ', ';']).filter(|word| !word.is_empty());
        let mut last = "";
        words
            .find_map(|word| {
                let found = (word == what).then(|| last.parse().ok()).flatten();
                last = word;
                found
            })
            .unwrap_or(0)
    };
    Tally {
        passed: count("passed"),
        failed: count("failed"),
        skipped: count("ignored"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a ... ok
test b ... FAILED
test c ... ok

successes:

---- a stdout ----
skipped: needs root: uid 1000
skipped: said twice

---- c stdout ----
the word skipped: in the middle

failures:

---- b stdout ----
thread panicked

failures:
    b

test result: FAILED. 2 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn counts_and_reasons_come_from_the_output_of_cargo() {
        let mut reader = Reader::default();
        let shown: Vec<Shown> = OUTPUT
            .lines()
            .filter_map(|line| reader.take(line))
            .collect();
        assert_eq!(
            reader.tally(),
            Tally {
                passed: 1,
                failed: 1,
                skipped: 5
            }
        );
        let skips: Vec<&Shown> = shown
            .iter()
            .filter(|line| matches!(line, Shown::Skip(_)))
            .collect();
        let reason = "skipped a: needs root: uid 1000".to_owned();
        assert_eq!(skips, [&Shown::Skip(reason)]);
        assert!(shown.contains(&Shown::Failure("thread panicked".to_owned())));
        let mut reader = Reader::default();
        let shown = [
            "test d ... FAILED",
            "    why",
            "test e ... ok",
            "    not this",
        ]
        .map(|line| reader.take(line).is_some());
        assert_eq!(shown, [true, true, false, false]);
    }
}
