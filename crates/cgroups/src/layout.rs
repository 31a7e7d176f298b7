//! Which hierarchies the host mounts, and where.

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// How the host arranges its hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Only v1 hierarchies.
    V1,
    /// v1 hierarchies with the unified tree beside them.
    Hybrid,
    /// Only the unified tree.
    V2,
    /// None in which this process may make a cgroup: it is root in a user namespace that nobody
    /// gave one to. Making and removing do nothing, and nothing is limited.
    Absent,
}

/// Controllers that Berth knows, by their v1 names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    Cpu,
    Cpuacct,
    Cpuset,
    Memory,
    Devices,
    Freezer,
    /// `blkio` on v1, `io` on v2.
    Blkio,
    Pids,
    Hugetlb,
    NetCls,
    NetPrio,
    Rdma,
    Misc,
    PerfEvent,
}

impl Controller {
    pub(crate) const ALL: [Self; 14] = [
        Self::Cpu,
        Self::Cpuacct,
        Self::Cpuset,
        Self::Memory,
        Self::Devices,
        Self::Freezer,
        Self::Blkio,
        Self::Pids,
        Self::Hugetlb,
        Self::NetCls,
        Self::NetPrio,
        Self::Rdma,
        Self::Misc,
        Self::PerfEvent,
    ];

    /// The name in v1 mount options.
    #[must_use]
    pub fn v1_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::Blkio => "blkio",
            Self::Pids => "pids",
            Self::Hugetlb => "hugetlb",
            Self::NetCls => "net_cls",
            Self::NetPrio => "net_prio",
            Self::Rdma => "rdma",
            Self::Misc => "misc",
            Self::PerfEvent => "perf_event",
        }
    }

    /// The name in `cgroup.controllers`.
    #[must_use]
    pub fn v2_name(self) -> &'static str {
        match self {
            Self::Blkio => "io",
            other => other.v1_name(),
        }
    }

    fn from_v1(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.v1_name() == name)
    }

    fn from_v2(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.v2_name() == name)
    }
}

/// What a mounted hierarchy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HierarchyKind {
    /// A v1 hierarchy; `name` for those mounted with `name=`.
    V1 { name: Option<String> },
    /// The unified tree.
    Unified,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub kind: HierarchyKind,
    /// Controllers bound to it; for the unified tree those that its root
    /// offers.
    pub controllers: Vec<Controller>,
    pub mount_point: PathBuf,
}

impl Hierarchy {
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.kind == HierarchyKind::Unified
    }

    #[must_use]
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }
}

/// Takes away what root of a user namespace may not change: the kernel asks who owns the directory
/// (`user_namespaces(7)`, capable_wrt_inode_uidgid), so asking for access tells.
pub(crate) fn retain_own(hierarchies: &mut Vec<Hierarchy>) {
    hierarchies.retain(|hierarchy| {
        rustix::fs::access(&hierarchy.mount_point, rustix::fs::Access::WRITE_OK).is_ok()
    });
}

/// Reads the table of mounts, in the format of `/proc/self/mountinfo`.
pub(crate) fn from_mount_table(table: &Path) -> Result<Vec<Hierarchy>> {
    let text = fs::read_to_string(table).map_err(|source| Error::MountTable {
        path: table.to_owned(),
        source,
    })?;
    Ok(parse_mount_table(&text))
}

/// A hierarchy may be mounted many times (bind mounts into containers, for
/// example): the first mount of the whole tree wins over mounts of a part.
fn parse_mount_table(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<(bool, Hierarchy)> = Vec::new();
    for line in text.lines() {
        let Some((whole, hierarchy)) = parse_mount(line) else {
            continue;
        };
        let same = found
            .iter_mut()
            .find(|(_, h)| h.kind == hierarchy.kind && h.controllers == hierarchy.controllers);
        match same {
            Some(known) if whole && !known.0 => *known = (whole, hierarchy),
            Some(_) => {}
            None => found.push((whole, hierarchy)),
        }
    }
    found
        .into_iter()
        .map(|(_, mut hierarchy)| {
            if hierarchy.is_unified() {
                hierarchy.controllers = offered(&hierarchy.mount_point);
            }
            hierarchy
        })
        .collect()
}

fn parse_mount(line: &str) -> Option<(bool, Hierarchy)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let whole = mount.next()? == "/";
    let mount_point = PathBuf::from(unescape(mount.next()?));
    let mut filesystem = filesystem.split(' ');
    match filesystem.next()? {
        "cgroup2" => Some((
            whole,
            Hierarchy {
                kind: HierarchyKind::Unified,
                controllers: Vec::new(),
                mount_point,
            },
        )),
        "cgroup" => {
            let options = filesystem.nth(1)?;
            let name = options
                .split(',')
                .find_map(|option| option.strip_prefix("name="))
                .map(unescape);
            let controllers: Vec<_> = options.split(',').filter_map(Controller::from_v1).collect();
            Some((
                whole,
                Hierarchy {
                    kind: HierarchyKind::V1 { name },
                    controllers,
                    mount_point,
                },
            ))
        }
        _ => None,
    }
}

/// Undoes the octal escapes (`\040` for a space) of the mount table.
fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = (byte == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Finds hierarchies by the directories below `root`: the tree itself if it
/// is unified, otherwise one directory per hierarchy, named for its
/// controllers. A directory that is no controller's is a named hierarchy.
pub(crate) fn from_directory(root: &Path) -> Result<Vec<Hierarchy>> {
    let unified = |mount_point: PathBuf| Hierarchy {
        kind: HierarchyKind::Unified,
        controllers: offered(&mount_point),
        mount_point,
    };
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![unified(root.to_owned())]);
    }
    let read = |source| Error::Open {
        path: root.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(root).map_err(read)? {
        let entry = entry.map_err(read)?;
        // `cpu -> cpu,cpuacct` is only another name for a hierarchy.
        if !entry.file_type().map_err(read)?.is_dir() {
            continue;
        }
        let mount_point = entry.path();
        if mount_point.join("cgroup.controllers").exists() {
            found.push(unified(mount_point));
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        let controllers: Vec<_> = name.split(',').filter_map(Controller::from_v1).collect();
        found.push(Hierarchy {
            kind: HierarchyKind::V1 {
                name: controllers.is_empty().then_some(name),
            },
            controllers,
            mount_point,
        });
    }
    found.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
    Ok(found)
}

/// What the root of a unified tree offers; nothing if that cannot be read.
fn offered(mount_point: &Path) -> Vec<Controller> {
    fs::read_to_string(mount_point.join("cgroup.controllers"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(Controller::from_v2)
        .collect()
}

/// The layout that a set of hierarchies makes; `None` without any.
pub(crate) fn classify(hierarchies: &[Hierarchy]) -> Option<Layout> {
    let unified = hierarchies.iter().any(Hierarchy::is_unified);
    let v1 = hierarchies.iter().any(|h| !h.is_unified());
    match (v1, unified) {
        (true, true) => Some(Layout::Hybrid),
        (true, false) => Some(Layout::V1),
        (false, true) => Some(Layout::V2),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn a_hybrid_mount_table_is_understood() {
        let found = parse_mount_table(HYBRID);
        assert_eq!(classify(&found), Some(Layout::Hybrid));
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].controllers, [Controller::Cpu, Controller::Cpuacct]);
        assert_eq!(found[0].kind, HierarchyKind::V1 { name: None });
        assert_eq!(
            found[2].kind,
            HierarchyKind::V1 {
                name: Some("systemd".into())
            }
        );
        assert!(found[2].controllers.is_empty());
        assert!(found[3].is_unified());
    }

    #[test]
    fn the_whole_tree_wins_over_bind_mounts_of_a_part() {
        let table = "\
1 2 0:29 /docker/abc /var/lib/x/cg\\040roup rw - cgroup cgroup rw,memory
3 2 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
4 2 0:29 / /mnt/memory rw - cgroup cgroup rw,memory
";
        let found = parse_mount_table(table);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].mount_point, Path::new("/sys/fs/cgroup/memory"));
        let part = parse_mount_table(table.lines().next().unwrap());
        assert_eq!(part[0].mount_point, Path::new("/var/lib/x/cg roup"));
    }

    #[test]
    fn odd_mount_lines_are_passed_over() {
        for line in [
            "",
            "garbage",
            "1 2 0:29 / /x rw",
            "1 2 0:29 - cgroup",
            "1 2 0:29 / /x rw - cgroup",
            "1 2 0:29 / /x rw - cgroup cgroup",
            "1 2 0:29 / /x rw - proc proc rw",
        ] {
            assert!(parse_mount_table(line).is_empty(), "{line:?}");
        }
    }

    #[test]
    fn octal_escapes_are_undone() {
        for (from, to) in [
            ("a\\040b", "a b"),
            ("a\\134", "a\\"),
            ("a\\", "a\\"),
            ("a\\04", "a\\04"),
            ("a\\999", "a\\999"),
        ] {
            assert_eq!(unescape(from), to);
        }
    }

    #[test]
    fn directories_tell_the_layout() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cpu,cpuacct", "memory", "systemd", "unified"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("cpu,cpuacct", dir.path().join("cpu")).unwrap();
        fs::write(
            dir.path().join("unified/cgroup.controllers"),
            "hugetlb io\n",
        )
        .unwrap();
        let found = from_directory(dir.path()).unwrap();
        assert_eq!(classify(&found), Some(Layout::Hybrid));
        assert_eq!(found.len(), 4);
        let unified = found.iter().find(|h| h.is_unified()).unwrap();
        assert_eq!(
            unified.controllers,
            [Controller::Hugetlb, Controller::Blkio]
        );

        fs::remove_dir_all(dir.path().join("unified")).unwrap();
        assert_eq!(
            classify(&from_directory(dir.path()).unwrap()),
            Some(Layout::V1)
        );

        let v2 = tempfile::tempdir().unwrap();
        fs::write(v2.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        assert_eq!(
            classify(&from_directory(v2.path()).unwrap()),
            Some(Layout::V2)
        );

        let empty = tempfile::tempdir().unwrap();
        assert_eq!(classify(&from_directory(empty.path()).unwrap()), None);
    }
}
