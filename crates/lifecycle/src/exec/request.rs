//! A command as it is asked for, where it differs from the container's own process.

use std::os::fd::AsFd;

use oci_spec::runtime::{Capabilities, LinuxCapabilitiesBuilder, Process};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Error, Result};
use crate::request::RunAs;
use crate::spec::set_variable;
use crate::user::Database;

/// A command; what is not set is as the container's process has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    pub command: Vec<String>,
    /// `NAME=value`; the last one of a name wins.
    pub env: Vec<String>,
    /// Absolute.
    pub working_dir: Option<String>,
    /// `user`, `user:group`, by names that the container has at this moment, or by numbers.
    pub user: Option<String>,
    /// With these capabilities instead of those of the container's process.
    pub capabilities: Option<Capabilities>,
}

impl ExecRequest {
    pub fn of(command: &[String]) -> Self {
        Self {
            command: command.to_vec(),
            ..Self::default()
        }
    }

    /// Blocking, where names have to be looked up: `pid` is the container's first process.
    pub(super) fn shape(&self, mut process: Process, pid: Option<u32>) -> Result<Process> {
        if !self.env.is_empty() {
            let mut env = process.env().clone().unwrap_or_default();
            for entry in &self.env {
                set_variable(&mut env, entry.clone());
            }
            process.set_env(Some(env));
        }
        if let Some(dir) = &self.working_dir {
            if !dir.starts_with('/') {
                let problem = format!("{dir:?} is not absolute");
                return Err(Error::invalid("working_dir", problem));
            }
            process.set_cwd(dir.into());
        }
        if let Some(user) = &self.user {
            self.become_user(&mut process, user, pid)?;
        }
        if let Some(all) = &self.capabilities {
            let all = LinuxCapabilitiesBuilder::default()
                .bounding(all.clone())
                .effective(all.clone())
                .permitted(all.clone())
                .inheritable(Capabilities::default())
                .ambient(Capabilities::default())
                .build()?;
            process.set_capabilities(Some(all));
        }
        Ok(process)
    }

    fn become_user(&self, process: &mut Process, user: &str, pid: Option<u32>) -> Result<()> {
        let found = users(pid)?.resolve(&RunAs::default(), user)?;
        let mut identity = process.user().clone();
        identity
            .set_uid(found.identity.uid)
            .set_gid(found.identity.gid)
            .set_additional_gids(Some(found.identity.additional_gids));
        process.set_user(identity);
        let mut env = process.env().clone().unwrap_or_default();
        let asked = self.env.iter().any(|entry| entry.starts_with("HOME="));
        if !asked {
            set_variable(&mut env, format!("HOME={}", found.home));
            process.set_env(Some(env));
        }
        Ok(())
    }
}

/// The user database of a container that runs, as its first process sees it.
fn users(pid: Option<u32>) -> Result<Database> {
    let Some(pid) = pid else {
        return Ok(Database::default());
    };
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &path, flags, Mode::empty()).map_err(|errno| Error::State {
        action: "open",
        path: path.into(),
        source: errno.into(),
    })?;
    Database::read(root.as_fd())
}
