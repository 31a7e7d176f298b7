//! What a person does with the stock docker CLI, its output checked, against a private daemon.

mod archives;
mod builds;
mod checkpoints;
pub(super) mod client;
mod compose;
mod containers;
mod cut;
mod exchanged;
mod files;
mod health;
mod images;
mod interface;
mod killed;
mod layer_sizes;
mod links;
mod networks;
mod old;
mod plugins;
mod programs;
mod races;
mod registries;
mod remote;
mod rootless;
pub(super) mod session;
mod sharing;
mod system;
mod written;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::checks::{contains, same};
use crate::outcome::Tally;
use session::Session;

type Step = fn(&mut Session) -> Result<()>;

/// Steps about one thing, in order.
struct Room {
    name: &'static str,
    steps: &'static [(&'static str, Step)],
    /// No step needs what an earlier one made: what a failed one left is cleared away.
    apart: bool,
}

const fn room(name: &'static str, steps: &'static [(&'static str, Step)]) -> Room {
    Room {
        name,
        steps,
        apart: false,
    }
}

impl Room {
    const fn apart(self) -> Self {
        Self {
            apart: true,
            ..self
        }
    }
}

/// In order. Those behind the first need of it only the image that [`FIRST`] pulls.
const ROOMS: &[Room] = &[
    room("images", STEPS),
    room("builds", builds::STEPS),
    room("containers", containers::STEPS),
    room("files", files::STEPS),
    room("files, written", written::STEPS),
    room("sizes of layers", layer_sizes::STEPS),
    room("races", races::STEPS).apart(),
    room("killed", killed::STEPS),
    room("health", health::STEPS),
    room("networks", networks::STEPS).apart(),
    room("compose", compose::STEPS),
    room("remote", remote::STEPS),
    room("sharing", sharing::STEPS).apart(),
    room("links", links::STEPS).apart(),
    room("plugins", plugins::STEPS).apart(),
    room("rootless", rootless::STEPS),
];

/// Pulls the image that all containers are made of.
const FIRST: (&str, Step) = containers::STEPS[0];

/// In order: later steps build on what earlier ones made.
const STEPS: &[(&str, Step)] = &[
    (
        "the socket is its owner's and its group's",
        interface::socket,
    ),
    (
        "ping answers GET and HEAD with its headers",
        interface::ping,
    ),
    (
        "versions that are not served are refused in Docker's words",
        interface::versions,
    ),
    (
        "an unknown path is refused as JSON of exactly that type",
        interface::unknown_path,
    ),
    ("swarm is refused with a clear message", interface::swarm),
    ("version shows client and server", system::version),
    ("info shows the machine and no swarm", system::info),
    (
        "images of an empty daemon is a heading alone",
        images::none_yet,
    ),
    (
        "inspect of what is not there says so",
        images::inspect_missing,
    ),
    (
        "pull tells of every layer, the digest and the status",
        images::pull,
    ),
    (
        "pull of what is here says that it is up to date",
        images::pull_again,
    ),
    ("pull by digest works", images::pull_by_digest),
    (
        "pull of a missing tag is refused with the registry's reason",
        images::pull_missing,
    ),
    (
        "pull from where nobody listens is refused",
        images::pull_from_nowhere,
    ),
    (
        "pull for another platform is refused",
        images::pull_other_platform,
    ),
    ("images lists repository, tag, id and size", images::list),
    (
        "images filters by reference, label and dangling",
        images::filter,
    ),
    ("inspect shows what the image says", images::inspect),
    ("history shows each step and its size", images::history),
    (
        "what is pulled at one door is there at the other",
        images::at_the_other_door,
    ),
    ("tag gives a further name", images::tag),
    ("tag of what is not there is refused", images::tag_missing),
    ("rmi by a tag takes the tag alone", images::untag),
    (
        "rmi by id of an image in two repositories needs force",
        images::remove_in_two_repositories,
    ),
    ("rmi by a short id removes the image", images::remove_by_id),
    (
        "rmi of what is not there is refused",
        images::remove_missing,
    ),
    (
        "save and load give the same image back",
        archives::save_and_load,
    ),
    ("save of two images is one archive", archives::save_two),
    (
        "load of an archive that is compressed",
        archives::load_compressed,
    ),
    ("load of an old archive works", archives::load_old),
    ("load of garbage is refused", archives::load_garbage),
    (
        "import makes an image of an archive, with changes",
        archives::import,
    ),
    (
        "login with a wrong password is refused",
        registries::login_wrong,
    ),
    (
        "push without a login is refused",
        registries::push_without_login,
    ),
    ("login with the right one is kept", registries::login_step),
    ("push sends each layer", registries::push),
    ("push again sends nothing", registries::push_again),
    (
        "push to another repository mounts the layers",
        registries::push_mounted,
    ),
    (
        "what was pushed is pulled with the login alone",
        registries::pull_private,
    ),
    (
        "push of an imported image compresses its layer",
        registries::push_imported,
    ),
    (
        "push over a connection that breaks off is completed",
        registries::push_cut,
    ),
    (
        "push of what is not here is refused",
        registries::push_missing,
    ),
    (
        "manifest inspect asks the registry by way of the daemon's API",
        registries::distribution,
    ),
    ("search is refused where there is none", registries::search),
    ("logout ends it", registries::logout),
    (
        "events tells of images, filtered and by time",
        system::events,
    ),
    ("system df counts images and their layers", system::df),
    (
        "image prune removes what has no tag",
        images::prune_dangling,
    ),
    ("image prune --all removes the rest", images::prune_all),
    (
        "images outlive the daemon, and the socket comes back",
        system::restart,
    ),
];

pub fn run() -> Result<Tally> {
    run_matching("")
}

/// Only the rooms whose name contains `focus`.
pub fn run_matching(focus: &str) -> Result<Tally> {
    println!("docker");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("docker suite", "needs root");
        return Ok(tally);
    }
    let mut session = Session::begin()?;
    let wanted = |room: &str| room.contains(focus);
    if !wanted("containers") {
        tally.check(FIRST.0, FIRST.1(&mut session));
    }
    for room in ROOMS.iter().filter(|room| wanted(room.name)) {
        for (name, step) in room.steps {
            let result = step(&mut session);
            if result.is_err() && room.apart {
                session.clear()?;
            }
            tally.check(name, result);
        }
    }
    if wanted(old::NAME) {
        tally += old::run(&mut session)?;
    }
    if wanted(checkpoints::NAME) {
        tally += checkpoints::run(&mut session)?;
    }
    if wanted(programs::NAME) {
        tally += programs::docker_py(&mut session)?;
    }
    if tally.failed > 0 {
        println!("  daemon log: {}", session.daemon_log().display());
    }
    tally.check("no container and no network is left behind", session.end());
    Ok(tally)
}

/// The CLI's standard output; it has to succeed.
fn docker(session: &Session, arguments: &[&str]) -> Result<String> {
    session.docker.text(arguments)
}

/// This moment, as `--since` and `--until` take it.
fn now() -> Result<String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(format!("{}.{:09}", since.as_secs(), since.subsec_nanos()))
}
