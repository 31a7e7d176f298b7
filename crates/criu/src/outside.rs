//! What belongs to the host or to the pod and is only named in the images.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use berth_kernel::rustix::fs::{CWD, Mode, OFlags};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

/// Beside the images: what the standard streams were called when they were dumped, as a list.
pub const DESCRIPTORS: &str = "descriptors.json";

/// Kinds of namespaces that are handed to criu as descriptors, with their keys.
pub const NAMESPACE_KEYS: [(&str, &str); 2] = [("net", "extRootNetNS"), ("pid", "extRootPidNS")];

/// Arguments of `--external` for a dump of the container of `spec` whose first process is `init`.
pub fn of_dump(init: u32, spec: &Spec) -> Vec<String> {
    // Mounts that the container shares with the host or follows it in are taken as they are.
    let mut externals = vec!["mnt[]:sm".to_owned()];
    let root = PathBuf::from(format!("/proc/{init}/root"));
    let places = mounts(spec).into_iter().chain(masked_files(spec, &root));
    let places: BTreeSet<PathBuf> = places
        .map(|place| resolve(&root, &place, Path::new("/")).unwrap_or(place))
        .chain(cgroup_mounts(init))
        .collect();
    for place in places {
        let place = place.display();
        externals.push(format!("mnt[{place}]:{place}"));
    }
    for (kind, key) in NAMESPACE_KEYS {
        let link = fs::metadata(format!("/proc/{init}/ns/{kind}"));
        let own = match kind {
            "pid" => owns_pids(init),
            _ => owns_network(spec),
        };
        if let (Ok(namespace), false) = (link, own) {
            externals.push(format!("{kind}[{}]:{key}", namespace.ino()));
        }
    }
    externals.extend(
        streams(init)
            .into_iter()
            .filter(|key| key.starts_with("file[")),
    );
    externals
}

/// Where the specification binds something of the host.
fn mounts(spec: &Spec) -> Vec<PathBuf> {
    let mounts = spec.mounts().iter().flatten();
    mounts
        .filter(|mount| {
            let options = mount.options().iter().flatten();
            mount.typ().as_deref() == Some("bind")
                || options.into_iter().any(|o| o == "bind" || o == "rbind")
        })
        .map(|mount| mount.destination().clone())
        .collect()
}

/// Masked files lie under the null device of the host, masked directories under a file system of
/// the container's own.
pub fn masked_files(spec: &Spec, root: &Path) -> Vec<PathBuf> {
    let linux = spec.linux().as_ref();
    let paths = linux.and_then(|linux| linux.masked_paths().as_ref());
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let is_file = |path: &&String| fs::metadata(below(path)).is_ok_and(|found| !found.is_dir());
    let files = paths.into_iter().flatten().filter(is_file);
    files.map(PathBuf::from).collect()
}

/// Where cgroups are mounted in the container.
fn cgroup_mounts(init: u32) -> Vec<PathBuf> {
    let table = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap_or_default();
    table.lines().filter_map(cgroup_mount).collect()
}

fn cgroup_mount(line: &str) -> Option<PathBuf> {
    let (left, right) = line.split_once(" - ")?;
    let kind = right.split(' ').next()?;
    let place = left.split(' ').nth(4)?;
    matches!(kind, "cgroup" | "cgroup2").then(|| unescape(place))
}

/// A path as the kernel's tables write it, with white space as octal numbers.
pub fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) if *byte == b'\\' => {
                out.push(value);
                rest = &after[3..];
            }
            _ => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    PathBuf::from(String::from_utf8_lossy(&out).into_owned())
}

/// What `place` is called in the container without links on the way, as its mount table calls it.
/// `root` leads to the container's root, and is called `known_as` by the kernel.
pub fn resolve(root: &Path, place: &Path, known_as: &Path) -> Option<PathBuf> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = berth_kernel::rustix::fs::openat(CWD, root, flags, Mode::empty()).ok()?;
    let found = berth_kernel::open_in_root(&directory, place, OFlags::PATH, Mode::empty()).ok()?;
    let name = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
    let below = name.strip_prefix(known_as).ok()?;
    Some(Path::new("/").join(below))
}

/// What the standard streams of `init` are called: a pipe by its number, a file that lies on a
/// mount of the host by mount and inode in criu's words, anything else by its path.
pub fn streams(init: u32) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap_or_default();
    let mounts: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    (0..3).map(|fd| stream(init, fd, &mounts)).collect()
}

fn stream(init: u32, fd: u32, mounts: &BTreeSet<&str>) -> String {
    let link = format!("/proc/{init}/fd/{fd}");
    let target = fs::read_link(&link).unwrap_or_default();
    let name = target.to_string_lossy().into_owned();
    let foreign = || {
        let info = fs::read_to_string(format!("/proc/{init}/fdinfo/{fd}")).ok()?;
        let mut lines = info.lines();
        let mount = lines.find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        if !target.is_absolute() || mounts.contains(mount) {
            return None;
        }
        let inode = fs::metadata(&link).ok()?.ino();
        Some(format!("file[{:x}:{inode:x}]", mount.parse::<u64>().ok()?))
    };
    foreign().unwrap_or(name)
}

/// Whether the process is the first of its PID namespace.
fn owns_pids(init: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.and_then(|line| line.split_whitespace().last()) == Some("1")
}

/// Whether the container has a network namespace that was made for it alone: what is in it is not
/// criu's to dump.
pub fn owns_network(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| {
        let path = namespace.path().as_ref();
        namespace.typ() == LinuxNamespaceType::Network
            && path.is_none_or(|path| path.as_os_str().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    #[test]
    fn bind_mounts_and_joined_namespaces_are_left_where_they_are() {
        let mut spec = Spec::default();
        let bind = MountBuilder::default()
            .destination("/data")
            .source("/host")
            .options(vec!["rbind".to_owned()])
            .build()
            .unwrap();
        spec.set_mounts(Some(vec![bind]));
        // Without namespaces of its own.
        spec.set_linux(None);
        let externals = of_dump(std::process::id(), &spec);
        assert!(externals.contains(&"mnt[/data]:/data".to_owned()));
        let network = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert!(externals.contains(&format!("net[{network}]:extRootNetNS")));
    }

    #[test]
    fn a_place_is_named_as_the_mount_table_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("run/secrets")).unwrap();
        fs::create_dir(root.join("var")).unwrap();
        std::os::unix::fs::symlink("/run", root.join("var/run")).unwrap();
        let found = resolve(&root, Path::new("/var/run/secrets"), &root);
        assert_eq!(found.as_deref(), Some(Path::new("/run/secrets")));
        assert_eq!(resolve(&root, Path::new("/missing"), &root), None);
        assert_eq!(unescape(r"/a\040b\134"), Path::new(r"/a b\"));
    }

    #[test]
    fn mounts_of_cgroups_are_found() {
        let line = "36 35 0:30 /a /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory";
        assert_eq!(
            cgroup_mount(line).as_deref(),
            Some(Path::new("/sys/fs/cgroup/memory"))
        );
        assert_eq!(cgroup_mount("36 35 0:30 / /proc rw - proc proc rw"), None);
    }
}
