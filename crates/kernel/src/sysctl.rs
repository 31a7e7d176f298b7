//! Names of the kernel's settings, and which namespace keeps a setting to itself.

use std::path::{Path, PathBuf};

/// The namespace that a sysctl belongs to, for those that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Ipc,
    Network,
    Uts,
}

/// Which namespace keeps the setting to the container; `None` for settings of
/// the whole machine, which no container may change.
pub fn scope(name: &str) -> Option<Scope> {
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
        Some(Scope::Ipc)
    } else if dotted.starts_with("net.") {
        Some(Scope::Network)
    } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
        Some(Scope::Uts)
    } else {
        None
    }
}

/// The file of a sysctl below `sys`; `None` for a name that leads elsewhere.
/// The first separator decides which of `.` and `/` separates (sysctl.d(5)).
pub fn path(name: &str) -> Option<PathBuf> {
    let first = name.find(['.', '/'])?;
    let text: String = if name[first..].starts_with('.') {
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
    text.split('/')
        .all(plain)
        .then(|| Path::new("sys").join(text))
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
            ("net.ipv4.ip_forward", Some(Scope::Network)),
            ("net/ipv4/ip_forward", Some(Scope::Network)),
            ("kernel.shmmax", Some(Scope::Ipc)),
            ("fs.mqueue.msg_max", Some(Scope::Ipc)),
            ("kernel.domainname", Some(Scope::Uts)),
            ("kernel.core_pattern", None),
            ("kernel.shmmax.x", None),
            ("vm.swappiness", None),
            ("network", None),
            ("", None),
        ];
        for (name, expected) in cases {
            assert_eq!(scope(name), expected, "{name}");
        }
    }

    #[test]
    fn a_sysctl_name_cannot_climb() {
        let found = |text: &str| Some(PathBuf::from(text));
        let cases = [
            ("net.ipv4.ip_forward", found("sys/net/ipv4/ip_forward")),
            (
                "net/ipv4/conf/eth0.1/x",
                found("sys/net/ipv4/conf/eth0.1/x"),
            ),
            (
                "net.ipv4.conf.eth0/1.x",
                found("sys/net/ipv4/conf/eth0.1/x"),
            ),
            ("net/../kernel/core_pattern", None),
            ("net.//.kernel", None),
            ("net..x", None),
            ("/net/x", None),
            ("net", None),
        ];
        for (name, file) in cases {
            assert_eq!(path(name), file, "{name}");
        }
    }
}
