//! A procfs of the child's own, attached nowhere.
//!
//! Kernel settings are written through it: its type is certain, and nothing
//! in the container's root can redirect a path in it.

use berth_kernel::rustix::fs::{Mode, OFlags};
use berth_kernel::{Errno, FilesystemContext, MountFlags, Result};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Procfs {
    mount: OwnedFd,
}

impl Procfs {
    /// The view of the calling process's PID namespace.
    pub(crate) fn new() -> Result<Self> {
        let context = FilesystemContext::open("proc")?;
        let flags = MountFlags::MOUNT_ATTR_NOSUID
            | MountFlags::MOUNT_ATTR_NODEV
            | MountFlags::MOUNT_ATTR_NOEXEC;
        Ok(Self {
            mount: context.mount(flags)?,
        })
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        berth_kernel::open_beneath(&self.mount, path, flags, Mode::empty())
    }

    /// Writes all of `value` in one call.
    pub(crate) fn write(&self, path: &Path, value: &str) -> Result<()> {
        let file = self.open(path, OFlags::WRONLY)?;
        match berth_kernel::rustix::io::write(&file, value.as_bytes())? {
            written if written == value.len() => Ok(()),
            _ => Err(Errno::IO),
        }
    }

    /// The first bytes of a file, without white space around them.
    pub(crate) fn read_short(&self, path: &Path) -> Result<String> {
        let file = self.open(path, OFlags::RDONLY)?;
        let mut buffer = [0u8; 64];
        let length = berth_kernel::rustix::io::read(&file, &mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        Ok(text.trim().to_owned())
    }
}

/// The namespace that a sysctl belongs to, for those that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SysctlScope {
    Ipc,
    Network,
    Uts,
}

/// Which namespace keeps the setting to the container; `None` for settings of
/// the whole machine, which no container may change.
pub(crate) fn sysctl_scope(name: &str) -> Option<SysctlScope> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let dotted = dotted(name);
    if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        Some(SysctlScope::Ipc)
    } else if dotted.starts_with("net.") {
        Some(SysctlScope::Network)
    } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
        Some(SysctlScope::Uts)
    } else {
        None
    }
}

/// The file of a sysctl below `sys`; `None` for a name that leads elsewhere.
/// The first separator decides which of `.` and `/` separates (sysctl.d(5)).
pub(crate) fn sysctl_path(name: &str) -> Option<PathBuf> {
    let first = name.find(['.', '/'])?;
    let path: String = if name[first..].starts_with('.') {
        let swap = |character| match character {
            '.' => '/',
            '/' => '.',
            other => other,
        };
        name.chars().map(swap).collect()
    } else {
        name.to_owned()
    };
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/')
        .all(plain)
        .then(|| Path::new("sys").join(path))
}

fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name.replace('/', "."),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_belongs_to_a_namespace_or_to_nobody() {
        let cases = [
            ("net.ipv4.ip_forward", Some(SysctlScope::Network)),
            ("net/ipv4/ip_forward", Some(SysctlScope::Network)),
            ("kernel.shmmax", Some(SysctlScope::Ipc)),
            ("fs.mqueue.msg_max", Some(SysctlScope::Ipc)),
            ("kernel.domainname", Some(SysctlScope::Uts)),
            ("kernel.core_pattern", None),
            ("kernel.shmmax.x", None),
            ("vm.swappiness", None),
            ("network", None),
            ("", None),
        ];
        for (name, scope) in cases {
            assert_eq!(sysctl_scope(name), scope, "{name}");
        }
    }

    #[test]
    fn a_sysctl_name_cannot_climb() {
        let path = |text: &str| Some(PathBuf::from(text));
        let cases = [
            ("net.ipv4.ip_forward", path("sys/net/ipv4/ip_forward")),
            ("net/ipv4/conf/eth0.1/x", path("sys/net/ipv4/conf/eth0.1/x")),
            ("net.ipv4.conf.eth0/1.x", path("sys/net/ipv4/conf/eth0.1/x")),
            ("net/../kernel/core_pattern", None),
            ("net.//.kernel", None),
            ("net..x", None),
            ("/net/x", None),
            ("net", None),
        ];
        for (name, file) in cases {
            assert_eq!(sysctl_path(name), file, "{name}");
        }
    }
}
