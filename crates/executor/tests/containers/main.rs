//! Real containers, made by the process that this program is.
//!
//! The executor clones without exec, so its caller has one thread; the usual
//! test harness has several. This one runs the cases one after another in
//! its only thread. Arguments that are no flags select cases by a part of
//! their name, `--skip=PART` leaves out; `--measure` also times the whole life
//! of a container.

mod canary;
mod copy_up;
mod fixture;
mod handover;
mod hooks;
mod hostile;
mod lifecycle;
mod measure;
mod notify;
mod process;
mod races;
mod rootfs;
mod shared_mounts;
mod user_namespace;

use anyhow::Result;
use canary::Canary;
use fixture::Host;
use std::process::ExitCode;

/// As the usual harness has it.
const SKIP: &str = "--skip=";

type Case = (&'static str, fn(&Host) -> Result<()>);

/// What is hostile must leave the host as it was, whatever else it does.
fn guarded(host: &Host, name: &str, case: fn(&Host) -> Result<()>) -> Result<()> {
    if !hostile::CASES.iter().any(|(hostile, _)| *hostile == name) {
        return case(host);
    }
    let canary = Canary::new()?;
    let outcome = case(host);
    canary.check()?;
    outcome
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == notify::AGENT) {
        return match notify::serve(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("agent: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    if arguments.first().is_some_and(|word| word == races::SWAPPER) {
        return match races::swap(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("swapper: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let cases: Vec<Case> = [
        process::CASES,
        rootfs::CASES,
        hostile::CASES,
        races::CASES,
        lifecycle::CASES,
        handover::CASES,
        user_namespace::CASES,
        hooks::CASES,
        notify::CASES,
        copy_up::CASES,
        shared_mounts::CASES,
    ]
    .concat();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in cases {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if !berth_kernel::rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root: real containers");
        return ExitCode::SUCCESS;
    }
    let host = match Host::new() {
        Ok(host) => host,
        Err(error) => {
            eprintln!("skipped: needs busybox and cgroups: {error:#}");
            return ExitCode::SUCCESS;
        }
    };
    let chosen = |name: &str| {
        let mut words = arguments
            .iter()
            .filter(|word| !word.starts_with("--"))
            .peekable();
        let mut skipped = arguments.iter().filter_map(|word| word.strip_prefix(SKIP));
        !skipped.any(|part| name.contains(part))
            && (words.peek().is_none() || words.any(|word| name.contains(word.as_str())))
    };
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in cases.into_iter().filter(|(name, _)| chosen(name)) {
        let outcome = std::panic::catch_unwind(|| guarded(&host, name, case));
        let words = match outcome {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(error)) => format!("FAILED\n    {error:#}"),
            Err(_) => "FAILED".to_owned(),
        };
        match words.as_str() {
            "ok" => passed += 1,
            _ => failed += 1,
        }
        println!("test {name} ... {words}");
    }
    if arguments.iter().any(|argument| argument == "--measure")
        && let Err(error) = measure::whole_life(&host)
    {
        println!("measure: {error:#}");
        failed += 1;
    }
    if let Err(error) = host.clean() {
        println!("cleaning up: {error:#}");
        failed += 1;
    }
    // As the usual harness ends, for those who count.
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {passed} passed; {failed} failed; 0 ignored");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
