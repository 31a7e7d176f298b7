//! What restored processes are, held against what the spec lets them be.
//!
//! The kernel is asked, and not the images: every process of the cgroup, while none of them runs.

use super::Places;
use crate::error::Result;
use crate::mounts::{MountKind, MountPlan};
use crate::plan::InitPlan;
use berth_criu::outside;
use berth_kernel::rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use berth_kernel::{CapabilitySet, MountFlags, Namespace};
use oci_spec::runtime::Spec;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `Seccomp:` of a process under a filter.
const FILTERED: &str = "2";

#[derive(Debug)]
pub(super) struct Check<'a> {
    pub plan: &'a InitPlan,
    pub places: &'a Places,
    pub init: i32,
}

type Checked = std::result::Result<(), String>;

impl Check<'_> {
    /// The first thing that should not be, in words.
    pub fn all(&self, pids: &[i32]) -> Checked {
        if !pids.contains(&self.init) {
            return Err("its first process is not in its cgroup".to_owned());
        }
        for pid in pids {
            self.process(*pid)
                .map_err(|problem| format!("a process of the images {problem}"))?;
        }
        self.mounts()
    }

    /// The images have their own idea of who is killed first.
    pub fn set_oom_scores(&self, pids: &[i32], spec: &Spec) -> Result<()> {
        let process = spec.process().as_ref();
        let Some(score) = process.and_then(|process| process.oom_score_adj()) else {
            return Ok(());
        };
        for pid in pids {
            let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
            let _ended = fs::write(path, score.to_string());
        }
        Ok(())
    }

    fn process(&self, pid: i32) -> Checked {
        let status = fs::read_to_string(format!("/proc/{pid}/status"));
        let status = status.map_err(|error| format!("cannot be looked at: {error}"))?;
        let field = |name: &str| {
            let mut lines = status.lines();
            lines
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .trim()
        };
        let allowed = self.plan.process.identity.bounding;
        for name in ["CapBnd:", "CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            let bits = u64::from_str_radix(field(name), 16);
            let bits = bits.map_err(|_| format!("has an unreadable {name}"))?;
            let beyond = CapabilitySet::from_bits_retain(bits) - allowed;
            if !beyond.is_empty() {
                return Err(format!(
                    "has capabilities that the container must not have: {beyond:?}"
                ));
            }
        }
        if self.plan.process.forbids_new_privileges() && field("NoNewPrivs:") != "1" {
            return Err("may gain privileges, which the container must not".to_owned());
        }
        if self.plan.filter.is_some() && field("Seccomp:") != FILTERED {
            return Err("runs without the seccomp filter that the container has".to_owned());
        }
        self.label(pid)?;
        self.namespaces(pid)
    }

    fn label(&self, pid: i32) -> Checked {
        let Some(wanted) = self.plan.process.wanted_label() else {
            return Ok(());
        };
        let current = fs::read_to_string(format!("/proc/{pid}/attr/current")).unwrap_or_default();
        let current = current.trim_end_matches(['\0', '\n']);
        let bare = current.split_once(" (").map_or(current, |(name, _)| name);
        if bare == wanted || current == wanted {
            return Ok(());
        }
        Err(format!(
            "has the security label {current:?}, and not {wanted:?}"
        ))
    }

    fn namespaces(&self, pid: i32) -> Checked {
        let plan = &self.plan.namespaces;
        for kind in Namespace::ALL {
            let name = kind.file_name();
            let found = inode(&format!("/proc/{pid}/ns/{name}"));
            let right = match plan.joined(kind) {
                Some(fd) => {
                    let wanted = berth_kernel::rustix::fs::fstat(fd).map(|stat| stat.st_ino);
                    found.is_some() && found == wanted.ok()
                }
                // criu has its reasons for new clocks.
                None if kind == Namespace::Time => true,
                None if plan.new.contains(kind) => {
                    let of_init = inode(&format!("/proc/{}/ns/{name}", self.init));
                    found.is_some() && found == of_init && !shares(pid, kind)
                }
                None => shares(pid, kind),
            };
            if !right {
                return Err(format!(
                    "is not in the {name} namespace that the container has"
                ));
            }
        }
        Ok(())
    }

    fn mounts(&self) -> Checked {
        let path = format!("/proc/{}/mountinfo", self.init);
        let table = fs::read_to_string(path).map_err(|error| format!("no mount table: {error}"))?;
        let mounts: Vec<Mounted> = table.lines().filter_map(Mounted::parse).collect();
        let root = mounts.iter().find(|mount| mount.place == Path::new("/"));
        let root = root.ok_or("the images have no root mount")?;
        if self.plan.read_only_root && !root.has("ro") {
            return Err("the root of the images can be written to".to_owned());
        }
        for mount in &mounts {
            self.mount(mount)?;
        }
        self.covers(&mounts)
    }

    fn mount(&self, mount: &Mounted) -> Checked {
        let place = mount.place.as_path();
        let hidden = self.places.masked.iter().any(|path| path == place);
        let protected = self
            .places
            .read_only
            .iter()
            .any(|path| place.starts_with(path));
        if place == Path::new("/") || hidden || protected {
            return Ok(());
        }
        let plans = self.plan.mounts.iter().zip(&self.places.mounts);
        let mut exact = plans
            .clone()
            .filter(|(_, at)| *at == place)
            .map(|(plan, _)| plan);
        if let Some(plan) = exact.next_back() {
            return matches(mount, plan);
        }
        let cgroup = plans.into_iter().any(|(plan, at)| {
            plan.kind == MountKind::Cgroup && place.starts_with(at) && mount.is_of_cgroups(plan)
        });
        let console = place == Path::new("/dev/console") && mount.kind == "devpts";
        if cgroup || console {
            return Ok(());
        }
        let place = place.display();
        Err(format!(
            "the images mount {} on {place}, which the container does not",
            mount.kind
        ))
    }

    /// What is to be hidden is hidden, and what is to be protected cannot be written to.
    fn covers(&self, mounts: &[Mounted]) -> Checked {
        let root = PathBuf::from(format!("/proc/{}/root", self.init));
        let is_there = |path: &Path| {
            let below = path.strip_prefix("/").unwrap_or(path);
            fs::symlink_metadata(root.join(below)).is_ok()
        };
        let top = |path: &Path| mounts.iter().rev().find(|mount| mount.place == path);
        for path in &self.places.masked {
            let covered = top(path).is_some_and(|mount| {
                mount.kind == "tmpfs" && mount.has("ro") || is_null(&root, path)
            });
            if is_there(path) && !covered {
                return Err(format!("{} of the images is not masked", path.display()));
            }
        }
        for path in &self.places.read_only {
            let protected = top(path).is_some_and(|mount| mount.has("ro"));
            if is_there(path) && !protected {
                return Err(format!(
                    "{} of the images can be written to",
                    path.display()
                ));
            }
        }
        Ok(())
    }
}

/// Whether a mount is what the spec has at its place.
fn matches(mount: &Mounted, plan: &MountPlan) -> Checked {
    let place = mount.place.display();
    let right = match &plan.kind {
        MountKind::Filesystem { kind, .. } => mount.kind == *kind,
        MountKind::Bind { source, .. } => device_of(source).as_deref() == Some(&mount.device),
        MountKind::Cgroup => mount.is_of_cgroups(plan),
    };
    if !right {
        return Err(format!(
            "the images mount something else on {place}: {}",
            mount.kind
        ));
    }
    let flags = [
        (MountFlags::MOUNT_ATTR_RDONLY, "ro"),
        (MountFlags::MOUNT_ATTR_NOSUID, "nosuid"),
        (MountFlags::MOUNT_ATTR_NODEV, "nodev"),
        (MountFlags::MOUNT_ATTR_NOEXEC, "noexec"),
    ];
    for (flag, word) in flags {
        let wanted = plan.options.set.contains(flag) || plan.options.set_all.contains(flag);
        if wanted && !mount.has(word) {
            return Err(format!("the images mount {place} without {word}"));
        }
    }
    Ok(())
}

/// Device of the file system that a path of the host lies on, as mount tables name it. By the mount
/// and not by `stat`: some file systems have numbers of their own for files.
fn device_of(path: &Path) -> Option<String> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let id = found.stx_mnt_id.to_string();
    table.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.next() == Some(&id)).then(|| fields.nth(1).unwrap_or_default().to_owned())
    })
}

fn is_null(root: &Path, path: &Path) -> bool {
    let below = path.strip_prefix("/").unwrap_or(path);
    let null = fs::metadata("/dev/null").map(|null| null.rdev());
    fs::symlink_metadata(root.join(below)).is_ok_and(|found| Some(found.rdev()) == null.ok())
}

/// Whether a process is in our own namespace of this kind.
pub(super) fn shares(pid: i32, kind: Namespace) -> bool {
    let name = kind.file_name();
    let theirs = inode(&format!("/proc/{pid}/ns/{name}"));
    theirs == inode(&format!("/proc/self/ns/{name}"))
}

fn inode(path: &str) -> Option<u64> {
    fs::metadata(path).ok().map(|found| found.ino())
}

/// A line of a mount table.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    device: String,
    place: PathBuf,
    options: Vec<String>,
    kind: String,
}

impl Mounted {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        Some(Self {
            device: (*left.get(2)?).to_owned(),
            place: outside::unescape(left.get(4)?),
            options: left.get(5)?.split(',').map(str::to_owned).collect(),
            kind: right.split(' ').next()?.to_owned(),
        })
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|known| known == option)
    }

    fn is_of_cgroups(&self, plan: &MountPlan) -> bool {
        let read_only = plan.options.set.contains(MountFlags::MOUNT_ATTR_RDONLY);
        matches!(self.kind.as_str(), "cgroup" | "cgroup2" | "tmpfs")
            && (!read_only || self.has("ro"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: &str, options: &[&str]) -> MountPlan {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let (place, bundle) = (Path::new("/p"), Path::new("/"));
        crate::mounts::plan(place, Some(kind), Some(bundle), &options, bundle).unwrap()
    }

    #[test]
    fn a_mount_has_to_be_what_the_spec_says() {
        let root = device_of(Path::new("/")).unwrap();
        let line = |device: &str, options: &str, kind: &str| {
            let line = format!("9 8 {device} / /p {options} - {kind} x rw");
            Mounted::parse(&line).unwrap()
        };
        let proc = plan("proc", &["nosuid", "noexec"]);
        let bind = plan("bind", &["rbind", "ro"]);
        let cgroup = plan("cgroup", &["ro"]);
        let cases = [
            (line("0:5", "rw,nosuid,noexec", "proc"), &proc, true),
            (line("0:5", "rw,nosuid", "proc"), &proc, false),
            (line("0:5", "rw,nosuid,noexec", "tmpfs"), &proc, false),
            (line(&root, "ro,relatime", "ext4"), &bind, true),
            (line(&root, "rw,relatime", "ext4"), &bind, false),
            (line("0:99999", "ro", "ext4"), &bind, false),
            (line("0:5", "ro", "cgroup"), &cgroup, true),
            (line("0:5", "rw", "cgroup"), &cgroup, false),
            (line("0:5", "ro", "devtmpfs"), &cgroup, false),
        ];
        for (mount, plan, right) in cases {
            assert_eq!(matches(&mount, plan).is_ok(), right, "{mount:?}");
        }
    }
}
