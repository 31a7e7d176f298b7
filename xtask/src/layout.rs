//! Programs as they are shipped.
//!
//! Linked in the order in which crates happen to come, the functions that a node's work calls are a
//! quarter of berthd's code and spread over nearly all of it; the kernel maps 64 KiB around each. So
//! the daemon is linked twice: once to see which functions a round of the bench calls, and once with
//! these side by side.

mod functions;
mod tracer;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::{artefacts, bench, tools, workspace};

/// The tracer's own command: pid, program, and where the names go.
pub const TRACE: &str = "trace-functions";

pub fn trace(pid: &str, program: &str, out: &str) -> Result<()> {
    let pid = pid.parse().context("reading a pid")?;
    tracer::run(pid, Path::new(program), Path::new(out))
}

/// Builds everything in the release profile, the daemon laid out by what it does.
pub fn release() -> Result<()> {
    tools::install()?;
    let programs = artefacts::build_release()?;
    if cfg!(not(target_arch = "x86_64")) {
        println!("berthd is as it was linked: its functions can be followed on x86-64 only");
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("needs root: pods run, to see which functions they need");
    }
    println!("following a round of the bench");
    let names = called(&programs)?;
    let layout = artefacts::layout();
    fs::write(&layout, names).with_context(|| format!("writing {}", layout.display()))?;
    artefacts::build_release()?;
    is_followed(&layout)?;
    println!("{}", programs.display());
    Ok(())
}

/// The names of the functions that a round of the bench calls.
fn called(programs: &Path) -> Result<String> {
    let place = Place::as_on_a_node()?;
    let registry = Registry::start(&place.scratch())?;
    let log = workspace::logs()?.join("release-berthd.log");
    let _fresh = fs::remove_file(&log);
    let mut daemon = Daemon::spawn(programs, &place, &log, &[])?;
    // What a start needs stays in memory, too.
    daemon.signal(Signal::STOP)?;
    let out = place.scratch().join("functions");
    let mut tracer = start_tracer(daemon.pid(), &out)?;
    daemon.signal(Signal::CONT)?;
    daemon.wait_until_ready()?;
    let worked = bench::one_round(&registry, &daemon, &place);
    let stopped = daemon.stop();
    let status = tracer.wait().context("waiting for the tracer")?;
    worked?;
    stopped?;
    place.bridge().remove()?;
    ensure!(status.success(), "the tracer ended with {status}");
    fs::read_to_string(&out).context("reading what was called")
}

fn start_tracer(pid: u32, out: &Path) -> Result<Child> {
    let program = unstripped();
    let mut tracer = Command::new(std::env::current_exe().context("finding this program")?)
        .arg(TRACE)
        .arg(pid.to_string())
        .arg(&program)
        .arg(out)
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

/// Where cargo leaves the daemon.
fn unstripped() -> PathBuf {
    workspace::target().join("release").join("berthd")
}

/// Nine of ten functions of the layout are there, and next to each other.
fn is_followed(layout: &Path) -> Result<()> {
    let wanted = fs::read_to_string(layout).context("reading the layout")?;
    let wanted: std::collections::BTreeSet<&str> = wanted.lines().collect();
    let functions = functions::of(&unstripped())?;
    let is_wanted = |names: &[String]| names.iter().any(|name| wanted.contains(name.as_str()));
    let found: Vec<bool> = functions.values().map(|names| is_wanted(names)).collect();
    let all = found.iter().filter(|found| **found).count();
    let side_by_side = found
        .chunk_by(|one, next| one == next)
        .filter(|run| run[0])
        .map(<[bool]>::len)
        .max()
        .unwrap_or_default();
    println!("{all} functions are used, {side_by_side} of them side by side");
    ensure!(
        side_by_side * 10 >= wanted.len() * 7,
        "the linker does not follow the layout: is it lld?"
    );
    Ok(())
}
