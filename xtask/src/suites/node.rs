//! What a node has to bear: many pods, a killed daemon, requests that are wrong.

mod bad_input;
mod broken_disk;
mod cycles;
mod damage;
mod devices;
pub(super) mod disk;
mod events;
mod full_disk;
mod handlers;
pub mod inventory;
mod old_metadata;
mod read_only_root;
mod refusals;
mod resources;
pub(super) mod restart;
mod reused_pid;
mod scrub;
pub(super) mod session;
pub mod soak;
mod streams;
mod volumes;

use anyhow::Result;

use crate::outcome::Tally;
use session::Session;

type Part = fn(&mut Session) -> Result<()>;

/// The parts do not build on each other: all run, also after a failed one.
pub fn run() -> Result<Tally> {
    run_matching("")
}

/// Only the parts whose name contains `focus`, or one of several between commas.
pub fn run_matching(focus: &str) -> Result<Tally> {
    println!("node");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("node suite", "needs root");
        return Ok(tally);
    }
    let mut session = Session::begin()?;
    let parts: [(&str, Part); 26] = [
        ("a hundred pods leave nothing behind", cycles::leave_nothing),
        (
            "clients of streams that abort leave nothing behind",
            streams::aborted_leave_nothing,
        ),
        (
            "a command's flood is cut and does not fill the daemon",
            streams::flood_is_cut,
        ),
        ("twenty pods outlive a killed daemon", restart::takes_over),
        ("a destroyed database is rebuilt", damage::is_mended),
        (
            "records that cannot be read are set aside",
            damage::records_are_set_aside,
        ),
        ("metadata of an earlier release is taken over", |_| {
            old_metadata::is_taken_over()
        }),
        ("a full disk is borne at every step", |_| {
            full_disk::is_borne()
        }),
        ("a file system that turns read-only is borne", |_| {
            broken_disk::read_only()
        }),
        (
            "a daemon whose root turned read-only says so and leaves what runs alone",
            |_| read_only_root::is_told(),
        ),
        (
            "a mount that hangs holds up nobody else",
            broken_disk::hanging_mount,
        ),
        (
            "a stranger with the pid of a shim is left alone",
            reused_pid::is_left_alone,
        ),
        ("what goes bad on disk is made good", |_| {
            scrub::is_made_good()
        }),
        ("images are mounted as volumes", volumes::show_images),
        (
            "volumes of images are filled and thrown away",
            volumes::declared_by_images,
        ),
        (
            "files of artifacts are mounted as volumes",
            volumes::show_artifacts,
        ),
        ("devices are given by name", devices::by_name),
        ("devices are given by path", devices::by_path),
        ("host paths are mounted or refused", devices::host_paths),
        (
            "limits change both ways, whole or not at all",
            resources::change,
        ),
        ("a pod is limited with its overhead", resources::of_a_pod),
        ("what happens is told in order, as it is", events::in_order),
        ("who does not listen is let go", events::let_go),
        (
            "runtime handlers are told by name",
            handlers::names_are_told,
        ),
        ("a container lives and ends with runc", handlers::runc),
        ("a container lives and ends with crun", handlers::crun),
    ];
    warm_up(&mut session)?;
    let chosen = |name: &str| focus.split(',').any(|part| name.contains(part));
    for (name, part) in parts.into_iter().filter(|(name, _)| chosen(name)) {
        let result = part(&mut session);
        settle(&mut session, &mut tally, name, result)?;
    }
    refusals::warm_up(&mut session)?;
    for (name, case) in refusals::CASES.iter().filter(|(name, _)| chosen(name)) {
        let result = refusals::judge(&mut session, *case);
        settle(
            &mut session,
            &mut tally,
            &format!("{name} is refused"),
            result,
        )?;
    }
    for (name, case) in bad_input::CASES.iter().filter(|(name, _)| chosen(name)) {
        let result = refusals::judge(&mut session, *case);
        settle(&mut session, &mut tally, &format!("{name}: borne"), result)?;
    }
    if tally.failed > 0 {
        println!("  daemon log: {}", session.daemon_log().display());
    }
    tally.check("no network is left behind", session.end());
    Ok(tally)
}

/// Opens what a daemon opens once and keeps.
pub(super) fn warm_up(session: &mut Session) -> Result<()> {
    cycles::warm_up(session)
}

/// Counts a part; what a failed one left is cleared away for the next.
fn settle(session: &mut Session, tally: &mut Tally, name: &str, result: Result<()>) -> Result<()> {
    let failed = result.is_err();
    tally.check(name, result);
    if failed {
        session.ensure_daemon()?;
        session.clean_up();
    }
    Ok(())
}
