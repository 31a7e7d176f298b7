//! The validation programs of opencontainers/runtime-tools: what runc passes on this host,
//! `berth-oci` passes.

mod expected;
mod program;
mod tap;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, mpsc};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use super::runtime::Runtime;
use crate::outcome::Tally;
use crate::tools::{self, Tool};
use expected::Expected;
use program::Program;
use tap::Outcome;

/// They wait for states a second at a time.
const SIDE_BY_SIDE: usize = 4;

/// Programs of these kinds share one cgroup.
const CGROUPS: [&str; 2] = ["linux_cgroups_", "delete_"];

/// What runc does not pass here.
const NOT_RUNC: &str = "validation.txt";

/// What berth-oci does not pass and runc does.
const NOT_OURS: &str = "validation-gaps.txt";

/// Beside the programs, and none of them.
const INSIDE: &str = "runtimetest";

pub fn run(place: &Path, ours: &Runtime, runc: &Runtime) -> Result<Tally> {
    let mut tally = Tally::default();
    if !cfg!(target_arch = "x86_64") {
        tally.skip("validation", "its root is for x86-64");
        return Ok(tally);
    }
    let directory = tools::ensure(Tool::RuntimeTools)?;
    let (not_runc, not_ours) = (Expected::read(NOT_RUNC)?, Expected::read(NOT_OURS)?);
    let programs = programs(&directory, place, ours, runc)?;
    ensure!(programs.len() > 50, "{} programs", programs.len());
    let count = programs.len();
    for (pair, ran) in run_all(programs) {
        let name = pair.theirs.name();
        let known = Known {
            of_runc: not_runc.reason(name),
            of_ours: not_ours.reason(name),
        };
        let judge = |ran: Ran| ran.and_then(|(ours, theirs)| known.judge(&ours, &theirs));
        // They wait for fixed times, which a busy machine exceeds, also behind runc: once more, alone.
        let result = judge(ran).or_else(|error| {
            println!("  note    {name} is run again: {error:#}");
            judge(pair.run())
        });
        match result {
            Ok(()) => tally += Tally::PASSED,
            Err(error) => tally.check(&format!("validation: {name}"), Err(error)),
        }
    }
    sweep();
    println!("  {count} validation programs next to runc: {tally}");
    Ok(tally)
}

/// Parents of the programs' cgroups, which runtimes leave where they are.
fn sweep() {
    for hierarchy in fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        for parent in ["testdir/cgrouptest", "testdir"] {
            let _not_there_or_in_use = fs::remove_dir(hierarchy.path().join(parent));
        }
    }
}

/// The same program behind two runtimes.
struct Pair {
    ours: Program,
    theirs: Program,
}

/// What came of ours and of theirs.
type Ran = Result<(Outcome, Outcome)>;

impl Pair {
    fn run(&self) -> Ran {
        Ok((self.ours.run()?, self.theirs.run()?))
    }
}

fn programs(directory: &Path, place: &Path, ours: &Runtime, runc: &Runtime) -> Result<Vec<Pair>> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .with_context(|| format!("listing {}", directory.display()))?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != INSIDE && !name.ends_with(".gz"))
        .collect();
    names.sort();
    let ours = alone(place, ours)?;
    let runc = alone(place, runc)?;
    Ok(names
        .iter()
        .map(|name| Pair {
            ours: Program::new(directory, name, &ours),
            theirs: Program::new(directory, name, &runc),
        })
        .collect())
}

/// The programs know a runtime by one word: a script that gives it a root of its own.
fn alone(place: &Path, runtime: &Runtime) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;

    let directory = place.join(format!("validation-{}", runtime.name));
    let script = directory.join(runtime.name);
    let text = format!(
        "#!/bin/sh\nexec {} --root {} \"$@\"\n",
        runtime.program.display(),
        directory.join("state").display()
    );
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(&script, text))
        .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("writing {}", script.display()))?;
    Ok(script)
}

/// Those that share a cgroup one after another, beside the others.
fn run_all(programs: Vec<Pair>) -> Vec<(Pair, Ran)> {
    let (chained, free): (VecDeque<Pair>, VecDeque<Pair>) =
        programs.into_iter().partition(|pair| {
            let name = pair.theirs.name();
            CGROUPS.iter().any(|kind| name.starts_with(kind))
        });
    let (chained, free) = (Mutex::new(chained), Mutex::new(free));
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for worker in 0..SIDE_BY_SIDE {
            let sender = sender.clone();
            let queues = match worker {
                0 => vec![&chained, &free],
                _ => vec![&free],
            };
            scope.spawn(move || {
                for queue in queues {
                    while let Some(pair) = next(queue) {
                        let ran = pair.run();
                        let _nobody_waits = sender.send((pair, ran));
                    }
                }
            });
        }
    });
    drop(sender);
    let mut results: Vec<(Pair, Ran)> = results.into_iter().collect();
    results.sort_by(|(one, _), (other, _)| one.theirs.name().cmp(other.theirs.name()));
    results
}

fn next(queue: &Mutex<VecDeque<Pair>>) -> Option<Pair> {
    queue.lock().ok()?.pop_front()
}

/// Why a program is not passed, if that is known.
#[derive(Debug, Clone, Copy, Default)]
struct Known<'a> {
    of_runc: Option<&'a str>,
    of_ours: Option<&'a str>,
}

impl Known<'_> {
    /// Ours passes what theirs passes; what theirs does not is named, with the reason.
    fn judge(self, ours: &Outcome, theirs: &Outcome) -> Result<()> {
        match (self.of_runc, theirs.passed()) {
            (Some(reason), true) => bail!("is in {NOT_RUNC} ({reason}), but runc passes it"),
            (None, false) => bail!(
                "is not in {NOT_RUNC}, but runc does not pass it: {}",
                theirs.complaint()
            ),
            _ => {}
        }
        match (self.of_ours, ours.passed()) {
            (Some(reason), true) => bail!("is in {NOT_OURS} ({reason}), but passes"),
            (Some(_), false) | (None, true) => return Ok(()),
            (None, false) => {}
        }
        ensure!(!theirs.passed(), "{}", ours.complaint());
        let missing = ours.misses_of(theirs);
        ensure!(missing.is_empty(), "runc passes {missing:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "TAP version 13\nok 1 - a\nok 2 - b\n1..2\n";
    const HALF: &str = "TAP version 13\nok 1 - a\nnot ok 2 - b\n1..2\n";
    const OTHER_HALF: &str = "TAP version 13\nnot ok 1 - a\nok 2 - b\n1..2\n";

    fn outcome(text: &str) -> Outcome {
        Outcome::parse(true, text, "")
    }

    #[test]
    fn what_runc_passes_has_to_pass_and_the_rest_to_be_named() {
        let verdict = |ours, theirs, of_runc| {
            let known = Known {
                of_runc,
                of_ours: None,
            };
            known.judge(&outcome(ours), &outcome(theirs)).is_ok()
        };
        assert!(verdict(GOOD, GOOD, None));
        assert!(!verdict(HALF, GOOD, None));
        assert!(!verdict(
            "TAP version 13\n",
            "TAP version 13\nnot ok 1 - a\n",
            None
        ));
        assert!(!verdict(GOOD, GOOD, Some("a reason that is gone")));
        assert!(!verdict(HALF, HALF, None));
        assert!(verdict(HALF, HALF, Some("a reason")));
        assert!(verdict(GOOD, HALF, Some("a reason")));
        assert!(!verdict(OTHER_HALF, HALF, Some("a reason")));
        let gap = Known {
            of_runc: None,
            of_ours: Some("a gap"),
        };
        assert!(gap.judge(&outcome(HALF), &outcome(GOOD)).is_ok());
        assert!(gap.judge(&outcome(GOOD), &outcome(GOOD)).is_err());
    }
}
