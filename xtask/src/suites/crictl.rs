//! What a person does with crictl, its output checked, against a private daemon.

mod checkpoint;
mod client;
mod events;
mod images;
mod leftovers;
mod life;
mod session;
mod statistics;
mod streams;
mod volumes;

use anyhow::{Result, ensure};

use super::checks::{contains, same};
use crate::outcome::Tally;
use session::Session;

type Step = fn(&mut Session) -> Result<()>;

/// Needs criu.
const CHECKPOINT: &str = "a checkpoint of a container goes on as another, and from an image";

/// In order: later steps build on what earlier ones made.
const STEPS: &[(&str, Step)] = &[
    ("version names the runtime and the contract", life::version),
    ("info says that runtime and network are ready", life::info),
    ("pull by tag answers with the image id", images::pull_by_tag),
    ("pull by digest works", images::pull_by_digest),
    ("pull of a missing tag is refused", images::pull_missing),
    (
        "pull without credentials is refused",
        images::pull_without_credentials,
    ),
    (
        "pull with wrong credentials is refused",
        images::pull_with_wrong_credentials,
    ),
    ("pull with credentials works", images::pull_with_credentials),
    (
        "images lists each image once, with tags, digests and size",
        images::list,
    ),
    ("inspecti shows one image", images::inspect),
    ("runp makes a ready pod", life::run_pod),
    (
        "pods and inspectp show the pod with its address",
        life::show_pod,
    ),
    (
        "create makes a container that does not run yet",
        life::create,
    ),
    ("start runs it", life::start),
    ("inspect shows what was asked for", life::inspect),
    ("logs keep both streams apart", life::logs),
    ("the log file has the format of the CRI", life::log_format),
    (
        "logs go on in a new file after rotation",
        life::log_rotation,
    ),
    ("exec -s returns output and failure", life::exec),
    (
        "exec -s sees environment, directory, host name, DNS and mounts",
        life::surroundings,
    ),
    ("exec -s ends at its timeout", life::exec_timeout),
    (
        "exec streams output, errors and the exit code",
        streams::exec,
    ),
    ("exec -i passes input and its end", streams::exec_input),
    (
        "exec -it has a terminal of the right size",
        streams::exec_terminal,
    ),
    (
        "a command does not outlive its client",
        streams::exec_vanished,
    ),
    (
        "attach joins two clients to a container with input",
        streams::attach,
    ),
    (
        "attach to a terminal comes, goes and comes back",
        streams::attach_terminal,
    ),
    (
        "port-forward reaches the pod's own loopback",
        streams::port_forward,
    ),
    ("limits are in force and can be updated", life::limits),
    ("the pod is reachable by its address", life::reachable),
    ("stats and statsp count what is used", statistics::stats),
    (
        "metricsp tells what metricdescs describes",
        statistics::metrics,
    ),
    ("streams hold what lists do", statistics::streams),
    (
        "the daemon's own metrics count calls, pulls and containers",
        statistics::own_metrics,
    ),
    (
        "imagefsinfo counts images and writable layers",
        statistics::filesystems,
    ),
    (
        "events tells what happens to a container, in order",
        events::told,
    ),
    (
        "a container with an artifact as a volume and a device by name",
        volumes::artifact_and_device,
    ),
    (CHECKPOINT, checkpoint::checkpoint_and_restore),
    (
        "update-runtime-config takes the node's range of addresses",
        events::runtime_config,
    ),
    ("a container outlives a killed daemon", life::survive_kill),
    ("stop lets the container end by itself", life::stop),
    (
        "start of a stopped container is refused",
        life::start_refused,
    ),
    ("a failed command reports its exit code", life::exit_code),
    (
        "an exit is recorded while the daemon is away",
        life::exit_while_away,
    ),
    ("rm removes containers", life::remove),
    (
        "stopp takes the pod down and can be repeated",
        life::stop_pod,
    ),
    ("rmp removes it", life::remove_pod),
    ("no process and no mount is left behind", leftovers::none),
    ("rmi removes an image with all its tags", images::remove),
    ("the daemon ends when asked to", life::end_daemon),
    ("no network is left behind", leftovers::no_network),
];

pub fn run() -> Result<Tally> {
    run_steps(STEPS)
}

/// Only the steps of these names, which have to be there.
pub fn run_only(names: &[&str]) -> Result<Tally> {
    let steps: Vec<(&str, Step)> = STEPS
        .iter()
        .filter(|(name, _)| names.contains(name))
        .copied()
        .collect();
    ensure!(
        steps.len() == names.len(),
        "{} of {} steps are there",
        steps.len(),
        names.len()
    );
    run_steps(&steps)
}

/// Stops at the first failure: what follows would only repeat it.
fn run_steps(steps: &[(&str, Step)]) -> Result<Tally> {
    println!("crictl");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("crictl suite", "needs root");
        return Ok(tally);
    }
    let mut session = Session::begin()?;
    let mut steps = steps.iter();
    for (name, step) in steps.by_ref() {
        if *name == CHECKPOINT
            && let Err(reason) = &session.criu
        {
            tally.skip(name, reason);
            continue;
        }
        tally.check(name, step(&mut session));
        if tally.failed > 0 {
            println!("  daemon log: {}", session.daemon_log().display());
            break;
        }
    }
    for (name, _) in steps {
        tally.skip(name, "an earlier step failed");
    }
    session.clean_up();
    Ok(tally)
}
