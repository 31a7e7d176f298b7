//! Programs as they are shipped.
//!
//! Linked in the order in which crates happen to come, the functions that a node's work calls are a
//! quarter of berthd's code and spread over nearly all of it; the kernel maps 64 KiB around each. So
//! programs are linked twice: once to see which functions they call when they do what a bench asks of
//! them, and once with these side by side.

mod functions;
mod program;
mod tracer;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::command::run;
use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::suites::oci::ours;
use crate::{artefacts, bench, tools, workspace};
use artefacts::{LAID_OUT, layout, with_names};
use program::Program;

/// The tracer's own command: a pid, the directory of the programs, and the one for what they called.
pub const TRACE: &str = "trace-functions";

/// A container's life by the runtime's command line, once a line says so.
const LIFE: &str = r#"
set -e
program=$1
place=$2
oci() { "$program" --root "$place/state" "$@" >/dev/null; }
read -r _
oci run --bundle "$place/short" short
oci create --bundle "$place/long" long
oci state long
oci start long
oci exec long /bin/true
oci list
oci kill long KILL
oci delete --force long
"#;

/// Builds everything in the release profile as cargo links it.
pub fn plain_release() -> Result<()> {
    for program in LAID_OUT {
        let _there_is_none = fs::remove_file(layout(program));
    }
    let programs = artefacts::build_release()?;
    println!("{}", programs.display());
    Ok(())
}

/// Builds everything in the release profile, what works on a node laid out by what it does.
pub fn release() -> Result<()> {
    if cfg!(not(target_arch = "x86_64")) || !rustix::process::geteuid().is_root() {
        bail!(
            "pods run, to see which functions they need: this takes root, and x86-64; \
             `cargo xtask release --plain` does without"
        );
    }
    tools::install()?;
    let programs = artefacts::build_release()?;
    let out = tempfile::tempdir().context("making a place for what is called")?;
    println!("following a round of the bench");
    follow_pods(&programs, out.path())?;
    println!("following a container by its runtime's command line");
    follow_container(&programs, out.path())?;
    for program in LAID_OUT {
        let (called, layout) = (out.path().join(program), layout(program));
        fs::copy(called, &layout).with_context(|| format!("writing {}", layout.display()))?;
    }
    artefacts::build_release()?;
    LAID_OUT.into_iter().try_for_each(is_followed)?;
    run(Command::new(programs.join("berthd")).arg("--version"))
        .context("the program that is laid out does not run: glibc 2.36 or later is needed")?;
    println!("{}", programs.display());
    Ok(())
}

/// What the tracer does.
pub fn trace(pid: &str, directory: &str, out: &str) -> Result<()> {
    let pid = pid.parse().context("reading a pid")?;
    let open = |name| Program::open(name, Path::new(directory));
    let mut programs: Vec<Program> = LAID_OUT.into_iter().map(open).collect::<Result<_>>()?;
    tracer::follow(pid, &mut programs)?;
    for program in programs.iter().filter(|it| it.was_called()) {
        let path = Path::new(out).join(program.name());
        fs::write(&path, program.layout())
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// What the daemon and its shims call.
fn follow_pods(programs: &Path, out: &Path) -> Result<()> {
    let place = Place::as_on_a_node()?;
    let registry = Registry::start(&place.scratch())?;
    let log = workspace::logs()?.join("release-berthd.log");
    let _fresh = fs::remove_file(&log);
    let mut daemon = Daemon::spawn(programs, &place, &log, &[])?;
    // What a start needs stays in memory, too.
    daemon.signal(Signal::STOP)?;
    let mut tracer = start_tracer(daemon.pid(), programs, out)?;
    daemon.signal(Signal::CONT)?;
    daemon.wait_until_ready()?;
    let worked = bench::one_round(&registry, &daemon, &place);
    let stopped = daemon.stop();
    let status = tracer.wait().context("waiting for the tracer")?;
    worked?;
    stopped?;
    place.bridge().remove()?;
    ensure!(status.success(), "the tracer ended with {status}");
    Ok(())
}

/// What the runtime's command line calls.
fn follow_container(programs: &Path, out: &Path) -> Result<()> {
    artefacts::build_oci()?;
    let place = tempfile::tempdir().context("making a place for bundles")?;
    bench::oci::bundles(place.path(), &ours())?;
    let mut shell = Command::new("sh")
        .args(["-c", LIFE, "sh"])
        .args([&programs.join(ours().name), place.path()])
        .stdin(Stdio::piped())
        .spawn()
        .context("starting a shell")?;
    let mut tracer = start_tracer(shell.id(), programs, out)?;
    let mut input = shell.stdin.take().context("the shell's input")?;
    writeln!(input).context("telling the shell")?;
    drop(input);
    let lived = shell.wait().context("waiting for the shell")?;
    let status = tracer.wait().context("waiting for the tracer")?;
    ensure!(lived.success(), "a container's life ended with {lived}");
    ensure!(status.success(), "the tracer ended with {status}");
    Ok(())
}

fn start_tracer(pid: u32, programs: &Path, out: &Path) -> Result<Child> {
    let mut tracer = Command::new(std::env::current_exe().context("finding this program")?)
        .arg(TRACE)
        .arg(pid.to_string())
        .args([programs, out])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the tracer")?;
    let said = tracer.stdout.take().context("the tracer's output")?;
    let mut line = String::new();
    BufReader::new(said)
        .read_line(&mut line)
        .context("hearing the tracer")?;
    ensure!(line.trim() == tracer::READY, "the tracer did not begin");
    Ok(tracer)
}

/// Most functions of the layout are there, and in one place.
fn is_followed(program: &str) -> Result<()> {
    let wanted = fs::read_to_string(layout(program)).context("reading the layout")?;
    let wanted: BTreeSet<&str> = wanted.lines().collect();
    let functions = functions::of(&with_names(program))?;
    let is_wanted = |names: &[String]| names.iter().any(|name| wanted.contains(name.as_str()));
    let found: Vec<bool> = functions.values().map(|names| is_wanted(names)).collect();
    let all = found.iter().filter(|found| **found).count();
    let together = together(&found);
    println!("{program}: {all} functions are used, {together} of them together");
    ensure!(
        together * 10 >= wanted.len() * 7,
        "the linker does not follow the layout: is it lld?"
    );
    Ok(())
}

/// How many lie in one place, with few others between them: those of the C library come several at a time.
fn together(found: &[bool]) -> usize {
    const FEW: usize = 16;
    let (mut most, mut here, mut others) = (0, 0, 0);
    for &is_wanted in found {
        if !is_wanted {
            others += 1;
            continue;
        }
        here = if others < FEW { here + 1 } else { 1 };
        others = 0;
        most = most.max(here);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_together_with_few_others_between_them() {
        let many = [false; 16];
        assert_eq!(together(&[]), 0);
        assert_eq!(together(&[true, false, true, true]), 3);
        assert_eq!(together(&[&[true, true][..], &many, &[true]].concat()), 2);
        assert_eq!(together(&[&[true][..], &many, &[true, true]].concat()), 2);
    }
}
