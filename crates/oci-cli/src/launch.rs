//! `create` and `run`: from a bundle to a container that others find again.
//!
//! ```text
//! directory ▸ process at its gate ▸ descriptors sent ▸ state saved ▸ pid file
//!   create: ▸ gate left to `start`
//!   run:    ▸ gate opened ▸ (foreground: waited for, deleted)
//! ```
//!
//! A step that fails takes back all before it.

use crate::arguments::Arguments;
use crate::bundle;
use crate::clock;
use crate::console::Receiver;
use crate::descriptors;
use crate::error::{Error, Result};
use crate::foreground::Foreground;
use crate::global::Global;
use crate::images::Images;
use crate::journal::Journal;
use crate::pid_file;
use crate::state::{State, version_of};
use crate::store::Entry;
use crate::streams::Terminal;
use berth_cgroups::CgroupHost;
use berth_executor::{Container, Create, CreateOptions, ProcessOptions};
use oci_spec::runtime::Spec;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Everything that is known before anything is made.
struct Plan<'a> {
    id: &'a str,
    bundle: PathBuf,
    spec: Spec,
    terminal: Terminal,
    console: Option<Receiver>,
    pidfd: Option<Receiver>,
    pid_file: Option<PathBuf>,
    process: ProcessOptions,
    no_pivot: bool,
    /// Where the processes come from, if they are not to be made anew.
    images: Option<Images>,
}

/// A container whose process waits at its gate, and where it is kept.
struct Made {
    entry: Entry,
    container: Container,
    /// For our own terminal.
    master: Option<OwnedFd>,
}

pub fn create(global: &Global, journal: &Journal, given: &Arguments) -> Result<u8> {
    let plan = Plan::new(given, true)?;
    let mut made = plan.make(global, journal, true)?;
    // First, since the process at its gate has a copy of the locked descriptor: were its maker killed
    // after it was told to stay, it would keep every other command waiting.
    made.entry.unlock();
    match made.container.leave() {
        Ok(()) => Ok(0),
        Err(error) => Err(made.undo(error.into())),
    }
}

pub fn run(global: &Global, journal: &Journal, given: &Arguments) -> Result<u8> {
    let plan = Plan::new(given, given.is_on("detach"))?;
    plan.run(global, journal, given)
}

/// As `run`, from images of criu.
pub fn restore(global: &Global, journal: &Journal, given: &Arguments) -> Result<u8> {
    let mut plan = Plan::new(given, given.is_on("detach"))?;
    plan.images = Some(Images::new(given)?);
    plan.run(global, journal, given)
}

impl<'a> Plan<'a> {
    fn new(given: &'a Arguments, detach: bool) -> Result<Self> {
        let pid_file = pid_file::locate(given.value("pid-file"))?;
        let bundle = bundle::directory(given.value("bundle"))?;
        let mut spec = bundle::spec(&bundle)?;
        let wanted = spec
            .process()
            .as_ref()
            .and_then(|process| process.terminal());
        let socket = given.value("console-socket");
        let terminal = Terminal::choose(wanted.unwrap_or(false), detach, socket)?;
        let listening = descriptors::listening();
        if let Some(process) = spec.process_mut() {
            descriptors::announce(process, listening);
        }
        let asked = given.number("preserve-fds")?.unwrap_or(0);
        Ok(Self {
            id: given.words.first().map_or("", String::as_str),
            bundle,
            spec,
            console: Receiver::connect_if(socket)?,
            pidfd: Receiver::connect_if(given.value("pidfd-socket"))?,
            terminal,
            pid_file,
            process: ProcessOptions {
                preserved_fds: descriptors::preserved(listening, asked)?,
                keep_keyring: given.is_on("no-new-keyring"),
                ..ProcessOptions::default()
            },
            no_pivot: given.is_on("no-pivot"),
            images: None,
        })
    }

    fn run(&self, global: &Global, journal: &Journal, given: &Arguments) -> Result<u8> {
        let detach = given.is_on("detach");
        let foreground = if detach {
            None
        } else {
            Some(Foreground::new()?)
        };
        if !detach && !given.is_on("no-subreaper") {
            // What the container's first process leaves behind is ours to reap.
            berth_kernel::set_child_subreaper(true).map_err(Error::system("become a subreaper"))?;
        }
        let mut made = self.make(global, journal, false)?;
        if let Err(error) = made.container.start() {
            return Err(made.undo(error.into()));
        }
        let Some(foreground) = foreground else {
            return Ok(0);
        };
        // Others may now exec, kill and look.
        made.entry.unlock();
        let pid = made.container.pid();
        let status = foreground.wait(pid, made.container.pidfd(), made.master.take())?;
        if !given.is_on("keep") {
            made.container.delete(true)?;
            made.entry.remove()?;
        }
        Ok(status)
    }

    /// Makes the container and publishes it, its process at the gate. With
    /// `to_be_left`, another process can open the gate.
    fn make(&self, global: &Global, journal: &Journal, to_be_left: bool) -> Result<Made> {
        let cgroups = CgroupHost::detect().map_err(Error::Cgroups)?;
        let entry = Entry::make(&global.root, self.id)?;
        match self.make_container(&entry, &cgroups, global.systemd_cgroup, to_be_left) {
            Err(error) => {
                // The first error is the one to tell.
                let _ = entry.remove();
                Err(error)
            }
            Ok(mut container) => {
                let notices = container.take_notices();
                notices.iter().for_each(|notice| journal.warning(notice));
                let master = container.take_terminal();
                let mut made = Made {
                    entry,
                    container,
                    master,
                };
                match self.publish(&mut made) {
                    Ok(()) => Ok(made),
                    Err(error) => Err(made.undo(error)),
                }
            }
        }
    }

    fn make_container(
        &self,
        entry: &Entry,
        cgroups: &CgroupHost,
        systemd_cgroup: bool,
        to_be_left: bool,
    ) -> Result<Container> {
        let start_socket = to_be_left.then(|| entry.listen()).transpose()?;
        let create = Create {
            id: self.id,
            bundle: &self.bundle,
            spec: &self.spec,
            rootfs: &[],
            stdio: self.terminal.streams(),
            cgroups,
            options: CreateOptions {
                process: self.process,
                no_pivot: self.no_pivot,
                systemd_cgroup,
                start_socket,
            },
        };
        match &self.images {
            Some(images) => images.restore(create),
            None => Ok(Container::create(create)?),
        }
    }

    fn publish(&self, made: &mut Made) -> Result<()> {
        if let (Some(console), Some(master)) = (&self.console, &made.master) {
            console.send(std::os::fd::AsFd::as_fd(master), "/dev/ptmx")?;
            // The receiver's alone: with a copy here, its end would not come.
            made.master = None;
        }
        if let Some(receiver) = &self.pidfd {
            receiver.send(made.container.pidfd(), "pidfd")?;
        }
        made.entry.save(&self.state(&made.container)?)?;
        match &self.pid_file {
            Some(path) => pid_file::write(path, made.container.pid()),
            None => Ok(()),
        }
    }

    fn state(&self, container: &Container) -> Result<State> {
        let root = self.spec.root().as_ref().map(|root| root.path().as_path());
        let record = container.record()?;
        Ok(State {
            version: version_of(&record),
            oci_version: self.spec.version().clone(),
            id: self.id.to_owned(),
            rootfs: self.bundle.join(root.unwrap_or("rootfs".as_ref())),
            bundle: self.bundle.clone(),
            created: clock::now(),
            annotations: self.spec.annotations().clone().unwrap_or_default(),
            own_pids: bundle::owns_pids(&self.spec),
            container: record,
        })
    }
}

impl Made {
    /// Takes the container back and hands the error on.
    fn undo(mut self, error: Error) -> Error {
        let _ = self.container.delete(true);
        let _ = self.entry.remove();
        error
    }
}
