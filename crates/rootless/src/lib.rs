//! The namespaces in which an ordinary user's daemon is root.
//!
//! ```text
//! user ── berthd ──────────── enters ──▶ ┌ user, mount and network namespace ┐
//!            │ first time: makes         │ holder (keeps them)               │
//!            ├─▶ holder ─────────────────│ berthd, shims, containers         │
//!            └─▶ slirp4netns ── tap0 ────│ 10.0.2.100, 10.0.2.3 for names    │
//!                (outside)               └───────────────────────────────────┘
//! ```
//!
//! Ids are mapped by `newuidmap(1)` and `newgidmap(1)`, which know what `/etc/subuid` and
//! `/etc/subgid` give the user: id 0 inside is the user, 1 and on are those ranges. The holder
//! outlives the daemon, so that a daemon that starts again finds its containers where they are; it
//! ends by SIGTERM, or with the machine.

mod error;
mod holder;
mod ids;
mod slirp;

use std::path::{Path, PathBuf};

use berth_kernel::{Namespace, NamespaceSet};

pub use error::{Error, Result};
pub use holder::hold_if_asked;

use holder::Holder;

/// What the entering needs, all absolute.
#[derive(Debug)]
pub struct Places<'a> {
    /// Where the holder is remembered. Lives as long as the boot.
    pub state: &'a Path,
    /// What the holder becomes when everything is ready: a program that waits for SIGTERM.
    pub keeper: &'a Path,
}

/// Namespaces that the calling process is in now.
#[derive(Debug)]
pub struct Entered {
    /// Where slirp4netns takes requests to forward ports of the host.
    pub forwards: PathBuf,
}

/// Moves this process into the user's own namespaces, made at the first time. It must have one
/// thread. Afterwards it is root there, and nowhere else.
pub fn enter(places: &Places<'_>) -> Result<Entered> {
    let directory = places.state.join("rootless");
    std::fs::create_dir_all(&directory).map_err(Error::file("make the directory", &directory))?;
    let holder = match Holder::find(&directory)? {
        Some(holder) => holder,
        None => Holder::make(&directory, places.keeper, &ids::Maps::of_user()?)?,
    };
    let forwards = slirp::ensure(&directory, holder.pid)?;
    let kinds = NamespaceSet::EMPTY
        .with(Namespace::User)
        .with(Namespace::Mount)
        .with(Namespace::Network);
    berth_kernel::join(&holder.pidfd, kinds).map_err(Error::kernel("enter the namespaces"))?;
    // Groups of the user that are nobody's inside would be given on to containers otherwise.
    rustix::thread::set_thread_groups(&[]).map_err(Error::kernel("leave the user's groups"))?;
    Ok(Entered { forwards })
}
