//! A daemon whose root directory turned read-only while it was away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

use super::inventory::Inventory;
use super::restart::{self, Running};
use super::session::Session;
use crate::command::run;
use crate::place::Place;

const PODS: usize = 2;

/// The start is refused in words that say what to do, and ends nobody; once the root is writable again,
/// all is served as before.
pub fn is_told() -> Result<()> {
    let place = Place::new()?;
    let root = OwnMount::of(&place.root())?;
    let mut session = Session::begin_in(place, "node-read-only-root", "")?;
    super::warm_up(&mut session)?;
    let before = Inventory::take(&session)?;
    let writing = "while :; do date >/written; sleep 1; done";
    let crew = restart::crew(&mut session, PODS, writing)?;

    session.kill_daemon()?;
    root.remount("ro")?;
    let said = refused(&mut session)?;
    let path = session.place.root().display().to_string();
    for word in [path.as_str(), "read-only", "remount,rw", "containers go on"] {
        ensure!(said.contains(word), "{word:?} is not in {said:?}");
    }
    for running in &crew {
        running.is_alive()?;
    }

    root.remount("rw")?;
    session.start_daemon()?;
    serves(&mut session, &crew)?;
    for running in &crew {
        session.tear_down(&running.pod, &running.container)?;
    }
    before.restored(&session)?;
    session.end()
}

/// What runs is listed and goes on, and more can be made.
fn serves(session: &mut Session, crew: &[Running]) -> Result<()> {
    restart::go_on(session, crew)?;
    let scratch = session.place.scratch();
    let more = restart::launch(session, crew.len(), "while :; do sleep 1; done", &scratch)?;
    session.tear_down(&more.pod, &more.container)
}

/// Starts the daemon, which must end by itself, and answers with what it said.
fn refused(session: &mut Session) -> Result<String> {
    let length = |path: &Path| fs::metadata(path).map_or(0, |found| found.len() as usize);
    let known = length(session.daemon_log());
    let started = session.start_daemon();
    ensure!(started.is_err(), "it was started");
    let log = fs::read_to_string(session.daemon_log()).context("reading the daemon's log")?;
    Ok(log.get(known..).unwrap_or_default().to_owned())
}

/// A directory that is a mount of its own, which nobody else sees change; unmounted with its value.
struct OwnMount(PathBuf);

impl OwnMount {
    fn of(path: &Path) -> Result<Self> {
        run(Command::new("mount").arg("--bind").args([path, path]))?;
        let own = Self(path.to_owned());
        mount_change(path, MountPropagationFlags::PRIVATE).context("making the mount private")?;
        Ok(own)
    }

    /// `ro` or `rw`: of this mount alone, whatever the file system is.
    fn remount(&self, access: &str) -> Result<()> {
        let options = format!("remount,bind,{access}");
        run(Command::new("mount").args(["-o", &options]).arg(&self.0))
    }
}

impl Drop for OwnMount {
    fn drop(&mut self) {
        // The place unmounts what is left in it when it goes first.
        let _may_be_gone = unmount(&self.0, UnmountFlags::DETACH);
    }
}
