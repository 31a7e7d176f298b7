//! The commands of the house. `cargo xtask` without a command lists them.

mod artefacts;
mod bench;
mod cgroup_parent;
mod command;
mod containerd;
mod cri;
mod daemon;
mod demo;
mod layout;
mod lint;
mod outcome;
mod place;
mod plots;
mod power;
mod registry;
mod suites;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};
use outcome::Tally;

const USAGE: &str = "\
usage: cargo xtask <command>

  demo             a pod, from pull to removal, with what happens told on the way
  build            daemon, command line, shim and pod init, side by side in
                   target/berth
  release [--plain]
                   the same as they are shipped, in target/berth/release, with the
                   code that a node's work needs side by side; --plain as cargo links
                   them, which needs neither root nor tools
  tools            what the suites need: Debian packages and Go programs
  images [--serve] make the images of critest; with --serve keep their registry
                   running until standard input ends
  lint             dependency direction, file length, module names …
  test             everything: format, clippy, lint, unit tests, and all suites
  crictl           only the crictl suite
  docker [FOCUS]   only the docker suite: the stock docker CLI, Compose and docker-py;
                   or its rooms whose name contains FOCUS: images, containers, …
  berth [FOCUS]    only the berth suite: our own command line; or its rooms whose name
                   contains FOCUS: builds, compose, …
  node [FOCUS]     only the node suite: many pods, a killed daemon, volumes, bad
                   requests; or its parts whose name contains FOCUS
  soak [--minutes N] [--seed S]
                   an hour, or N minutes, of pods, pulls, commands and restarts of the
                   daemon: what it takes has to stay flat
  hostile [FOCUS]  only the hostile suite: registries, images and requests that mean
                   harm; or its parts whose name contains FOCUS
  crash [--seeds N | --seed S | --points | --point NAME]
                   only the crash campaign: kills of the daemon at every fault point
                   and by seeds; or a part of that
  kubelet [--with-containerd]
                   only the kubelet suite: static pods, restarts, a reboot; or how
                   soon its pods are ready, in turns with a containerd
  oci [checkpoint|validation]
                   only the oci suite: the same specifications through berth-oci,
                   runc and crun; or only its checkpoints or validation programs
  containerd [FOCUS]
                   only the containerd suite: a stock containerd runs containers with
                   our shim; or its rooms whose name contains FOCUS: asked, tasks,
                   pods, checkpoints, faults
  vm [cgroupfs|systemd [FOCUS]]
                   only the vm suite: cgroup v2 alone, in machines of their own,
                   without systemd and with it; or one machine, or its rooms whose
                   name contains FOCUS
  trace            only the trace suite: spans as a collector receives them
  critest [FOCUS]  only critest in all ways, or the specs that match FOCUS in the first
  critest --way NAME [FOCUS]
                   in one way: websocket, parallel, runc or crun
  bench-lists [--release] RECORDS
                   how long lists of so many records take while pods start
  bench-restart [--release] PODS
                   how soon a killed daemon serves again while so many pods run
  bench-density [--release] PODS
                   what so many pods cost that run at once: memory for each, and the
                   time of calls beside them
  bench-pull [--with-containerd] [--rounds N]
                   how long images of three shapes take to arrive, and how much memory
  bench [--with-containerd | --containerd SOCKET] [--rounds N] [--pause MS]
                   how long the calls of the CRI take, in turns with a containerd
                   of its own or the one behind SOCKET
  bench-docker [--release]
                   how long the Docker door takes for a run and an exec
  bench-build [--release]
                   how long builds take: from nothing, unchanged, one file changed
  plots [--take]   draw docs/figures; with --take what the benches wrote last
  bench --oci      how long berth-oci takes, in turns with crun and runc";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the command found everything in order.
fn run(arguments: &[&str]) -> Result<bool> {
    match arguments {
        ["demo"] => demo::run().map(|()| true),
        ["demo", demo::INSIDE] => demo::run_inside().map(|()| true),
        ["build"] => artefacts::build().map(|()| true),
        ["release"] => layout::release().map(|()| true),
        ["release", "--plain"] => layout::plain_release().map(|()| true),
        [layout::TRACE, pid, programs, out] => layout::trace(pid, programs, out).map(|()| true),
        ["tools"] => tools::install().map(|()| true),
        ["images"] => suites::critest::show_images(false).map(|()| true),
        ["images", "--serve"] => suites::critest::show_images(true).map(|()| true),
        ["lint"] => Ok(report(lint::run()?)),
        ["test"] => Ok(report(test::run()?)),
        ["crictl"] => {
            prepare()?;
            Ok(report(suites::crictl::run()?))
        }
        ["docker"] => {
            prepare()?;
            Ok(report(suites::docker::run()?))
        }
        ["docker", focus] => {
            prepare()?;
            Ok(report(suites::docker::run_matching(focus)?))
        }
        ["berth"] => {
            prepare()?;
            Ok(report(suites::berth::run()?))
        }
        ["berth", focus] => {
            prepare()?;
            Ok(report(suites::berth::run_matching(focus)?))
        }
        ["node"] => {
            prepare()?;
            Ok(report(suites::node::run()?))
        }
        ["node", focus] => {
            prepare()?;
            Ok(report(suites::node::run_matching(focus)?))
        }
        ["soak", options @ ..] => {
            let wanted = suites::node::soak::Wanted::parse(options)?;
            prepare()?;
            Ok(report(suites::node::soak::run(&wanted)?))
        }
        ["hostile"] => {
            prepare()?;
            Ok(report(suites::hostile::run()?))
        }
        ["hostile", focus] => {
            prepare()?;
            Ok(report(suites::hostile::run_matching(focus)?))
        }
        ["crash", options @ ..] => {
            let wanted = suites::crash::Wanted::parse(options)?;
            prepare()?;
            Ok(report(suites::crash::run(&wanted)?))
        }
        ["kubelet"] => {
            prepare()?;
            Ok(report(suites::kubelet::run()?))
        }
        ["kubelet", "--with-containerd"] => {
            prepare()?;
            suites::kubelet::compare().map(|()| true)
        }
        ["oci"] => Ok(report(suites::oci::run()?)),
        ["oci", "checkpoint"] => Ok(report(suites::oci::run_checkpoints()?)),
        ["oci", "validation"] => Ok(report(suites::oci::run_validation()?)),
        ["containerd"] => Ok(report(suites::containerd::run()?)),
        ["containerd", focus] => Ok(report(suites::containerd::run_matching(focus)?)),
        ["vm"] => {
            prepare()?;
            Ok(report(suites::vm::run_all()?))
        }
        ["vm", suites::vm::INSIDE, kind, focus] => {
            suites::vm::run_inside(kind, focus).map(|()| true)
        }
        ["vm", kind, focus @ ..] if focus.len() < 2 => {
            let kind = suites::vm::Kind::parse(kind)?;
            prepare()?;
            let focus = focus.first().copied().unwrap_or_default();
            Ok(report(suites::vm::run(&[kind], focus)?))
        }
        ["trace"] => {
            prepare()?;
            Ok(report(suites::trace::run()?))
        }
        ["critest"] => {
            prepare()?;
            Ok(report(suites::critest::run()?))
        }
        ["bench-lists", records] => bench::lists(records, false).map(|()| true),
        ["bench-lists", "--release", records] => bench::lists(records, true).map(|()| true),
        ["bench-restart", pods] => bench::restart(pods, false).map(|()| true),
        ["bench-restart", "--release", pods] => bench::restart(pods, true).map(|()| true),
        ["bench-density", pods] => bench::density(pods, false).map(|()| true),
        ["bench-density", "--release", pods] => bench::density(pods, true).map(|()| true),
        ["bench-pull"] => bench::pull(None, false).map(|()| true),
        ["bench-pull", "--with-containerd"] => bench::pull(None, true).map(|()| true),
        ["bench-pull", "--rounds", rounds] => bench::pull(Some(rounds), false).map(|()| true),
        ["bench-pull", "--with-containerd", "--rounds", rounds] => {
            bench::pull(Some(rounds), true).map(|()| true)
        }
        ["plots"] => plots::draw(false).map(|()| true),
        ["plots", "--take"] => plots::draw(true).map(|()| true),
        ["bench-docker"] => bench::docker(false).map(|()| true),
        ["bench-docker", "--release"] => bench::docker(true).map(|()| true),
        ["bench-build"] => bench::build(false).map(|()| true),
        ["bench-build", "--release"] => bench::build(true).map(|()| true),
        ["bench", "--oci"] => bench::oci::run().map(|()| true),
        ["bench", bench::oci::INSIDE] => bench::oci::run_inside().map(|()| true),
        ["bench", options @ ..] => bench::run(&bench::Options::parse(options)?).map(|()| true),
        ["critest", "--way", way] => {
            prepare()?;
            Ok(report(suites::critest::run_in(way, None)?))
        }
        ["critest", "--way", way, focus] => {
            prepare()?;
            Ok(report(suites::critest::run_in(way, Some(focus))?))
        }
        ["critest", focus] => {
            prepare()?;
            Ok(report(suites::critest::run_in("", Some(focus))?))
        }
        _ => bail!("{USAGE}"),
    }
}

fn prepare() -> Result<()> {
    tools::install()?;
    artefacts::build()
}

fn report(tally: Tally) -> bool {
    let failures = outcome::failures();
    if !failures.is_empty() {
        println!("what failed, once more");
        for line in failures {
            println!("  {line}");
        }
    }
    println!("{tally}");
    tally.failed == 0
}
