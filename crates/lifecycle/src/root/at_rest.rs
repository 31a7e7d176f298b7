//! The root of a container that does not run, put together in a mount namespace that nobody is in.
//!
//! For a reader the container's own layer is one more lower one, below a file system in memory: what
//! volumes are mounted on is made there and not in the layer, and nobody has to wait for the reader.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use berth_kernel::{
    AttributeChange, FilesystemContext, MountFlags, Namespace, NamespaceSet, Propagation,
};
use berth_snapshots::Mount;
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{Root, failed, kind};
use crate::error::{Error, Result};

/// Nothing in there is run, and no device is opened.
const ALWAYS: MountFlags = MountFlags::MOUNT_ATTR_NOSUID
    .union(MountFlags::MOUNT_ATTR_NODEV)
    .union(MountFlags::MOUNT_ATTR_NOEXEC);

/// Something of the host's that a container has in its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeMount {
    pub source: PathBuf,
    /// What of the source is mounted, looked up inside of it; empty means all.
    pub sub_path: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
}

/// Blocking. `place` is any directory: it is covered where nobody sees it.
pub(super) fn open(
    place: &Path,
    mounts: &[Mount],
    volumes: &[VolumeMount],
    writable: bool,
) -> Result<Root> {
    let make = || {
        let empty = NamespaceSet::EMPTY.with(Namespace::Mount);
        let fail = |errno| failed("make a mount namespace at", place, errno);
        berth_kernel::unshare(empty).map_err(fail)?;
        berth_kernel::set_propagation(Path::new("/"), Propagation::Private, true).map_err(fail)?;
        assemble(place, mounts, volumes, writable)
    };
    // A thread of its own: it ends in another namespace than it began in.
    let made = std::thread::scope(|scope| scope.spawn(make).join());
    made.unwrap_or_else(|_| Err(failed("mount", place, Errno::FAULT)))
}

fn assemble(
    place: &Path,
    mounts: &[Mount],
    volumes: &[VolumeMount],
    writable: bool,
) -> Result<Root> {
    let mut volumes: Vec<&VolumeMount> = volumes.iter().collect();
    volumes.sort_by_key(|volume| volume.destination.components().count());
    // Before anything is covered.
    let sources = volumes.iter().map(|volume| source(volume));
    let sources = sources.collect::<Result<Vec<OwnedFd>>>()?;
    let layer = match writable {
        true => own(mounts)?,
        false => borrowed(place, mounts)?,
    };
    let fail = |errno| failed("mount a layer on", place, errno);
    let place = directory(place)?;
    berth_kernel::attach(&layer, &place).map_err(fail)?;
    let dir = layer;
    for (volume, source) in volumes.iter().zip(&sources) {
        let target = target(&dir, &volume.destination, kind(source).map_err(fail)?)
            .map_err(|errno| failed("find the place of a volume,", &volume.destination, errno))?;
        berth_kernel::attach(source, &target)
            .map_err(|errno| failed("mount a volume on", &volume.destination, errno))?;
    }
    let change = AttributeChange {
        set: match writable {
            true => ALWAYS,
            false => ALWAYS | MountFlags::MOUNT_ATTR_RDONLY,
        },
        ..AttributeChange::default()
    };
    berth_kernel::set_attributes(&dir, &change, None, true).map_err(fail)?;
    let here = Path::new("/proc/thread-self/ns/mnt");
    Ok(Root {
        dir,
        _namespace: berth_kernel::open_namespace(here).map_err(fail)?,
    })
}

/// What a volume is mounted from, as a mount that is nowhere yet.
fn part(volume: &VolumeMount) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let whole = rustix::fs::open(&volume.source, flags, Mode::empty())?;
    let found = berth_kernel::open_in_root(&whole, &volume.sub_path, OFlags::PATH, Mode::empty())?;
    berth_kernel::clone_tree(&found, Path::new(""), true)
}

fn source(volume: &VolumeMount) -> Result<OwnedFd> {
    let fail = |errno| failed("open a volume,", &volume.source, errno);
    let copy = match volume.sub_path.as_os_str().is_empty() {
        true => berth_kernel::clone_tree(CWD, &volume.source, true),
        false => part(volume),
    };
    let copy = copy.map_err(fail)?;
    if volume.read_only {
        let change = AttributeChange {
            set: MountFlags::MOUNT_ATTR_RDONLY,
            ..AttributeChange::default()
        };
        berth_kernel::set_attributes(&copy, &change, None, true).map_err(fail)?;
    }
    Ok(copy)
}

/// The layer as the container has it. Flushed when it is let go: what is written stays.
fn own(mounts: &[Mount]) -> Result<OwnedFd> {
    let upper = upper(mounts)?;
    let fail = |errno| failed("mount the layer", &upper, errno);
    let lowers = lowers(mounts);
    if lowers.is_empty() {
        return berth_kernel::clone_tree(CWD, &upper, false).map_err(fail);
    }
    let options = mounts.iter().flat_map(|mount| &mount.options);
    let options: Vec<_> = options
        .map(|option| setting(option))
        .filter(|(key, _)| !matches!(*key, "lowerdir" | "volatile"))
        .collect();
    berth_kernel::mount_overlay(&lowers, &options, MountFlags::empty()).map_err(fail)
}

/// An option's key, and its value where it has one.
fn setting(option: &str) -> (&str, Option<&str>) {
    match option.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (option, None),
    }
}

/// The layer as the topmost one to read from.
fn borrowed(place: &Path, mounts: &[Mount]) -> Result<OwnedFd> {
    let upper = upper(mounts)?;
    let fail = |errno| failed("mount the layer", &upper, errno);
    let memory = FilesystemContext::open("tmpfs").map_err(fail)?;
    memory.set("mode", "0700").map_err(fail)?;
    let memory = memory.mount(ALWAYS).map_err(fail)?;
    berth_kernel::attach(&memory, directory(place)?).map_err(fail)?;
    let looks = rustix::fs::stat(&upper).map_err(fail)?;
    for name in ["upper", "work"] {
        rustix::fs::mkdirat(&memory, name, Mode::RWXU).map_err(fail)?;
    }
    let own = place.join("upper");
    let (uid, gid) = (Uid::from_raw(looks.st_uid), Gid::from_raw(looks.st_gid));
    rustix::fs::chown(&own, Some(uid), Some(gid)).map_err(fail)?;
    rustix::fs::chmod(&own, Mode::from_raw_mode(looks.st_mode)).map_err(fail)?;
    let mut layers = vec![upper.as_path()];
    layers.extend(lowers(mounts));
    let (own, work) = (own.to_string_lossy(), place.join("work"));
    let work = work.to_string_lossy();
    let mut options = vec![("upperdir", Some(&*own)), ("workdir", Some(&*work))];
    options.extend(
        berth_kernel::overlay_marks()
            .options
            .iter()
            .map(|option| setting(option)),
    );
    berth_kernel::mount_overlay(&layers, &options, MountFlags::empty()).map_err(fail)
}

/// Opens what a volume is mounted on, and makes it where it is missing.
fn target(root: &OwnedFd, destination: &Path, kind: FileType) -> Result<OwnedFd, Errno> {
    let open = |path: &Path| berth_kernel::open_in_root(root, path, OFlags::PATH, Mode::empty());
    match open(destination) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    let mut path = PathBuf::from("/");
    let mut above = open(&path)?;
    let names = destination.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let names: Vec<_> = names.collect();
    for (number, name) in names.iter().enumerate() {
        path.push(name);
        above = match open(&path) {
            Err(Errno::NOENT) if number + 1 == names.len() && kind != FileType::Directory => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::openat(&above, *name, flags, Mode::from_raw_mode(0o644))?;
                open(&path)?
            }
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&above, *name, Mode::from_raw_mode(0o755))?;
                open(&path)?
            }
            opened => opened?,
        };
    }
    Ok(above)
}

/// Where a container's writes go.
pub(super) fn upper(mounts: &[Mount]) -> Result<PathBuf> {
    let options = mounts.iter().flat_map(|mount| &mount.options);
    let mut uppers = options.filter_map(|option| option.strip_prefix("upperdir="));
    match (uppers.next(), mounts) {
        (Some(upper), _) => Ok(PathBuf::from(upper)),
        // An image without layers.
        (None, [only]) if only.kind == "bind" => Ok(PathBuf::from(&only.source)),
        _ => Err(Error::invalid("layer", "it has no directory of its own")),
    }
}

fn lowers(mounts: &[Mount]) -> Vec<&Path> {
    let options = mounts.iter().flat_map(|mount| &mount.options);
    let lists = options.filter_map(|option| option.strip_prefix("lowerdir="));
    lists
        .flat_map(|list| list.split(':'))
        .map(Path::new)
        .collect()
}

pub(super) fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed("open", path, errno))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::Missing;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    fn layer(dir: &Path) -> Vec<Mount> {
        for name in ["lower/etc", "upper", "work", "volume", "place"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::write(dir.join("lower/etc/passwd"), "app:x:77:78::/:/bin/sh\n").unwrap();
        fs::write(dir.join("upper/new"), "new").unwrap();
        fs::write(dir.join("volume/file"), "on the volume").unwrap();
        symlink("/etc", dir.join("upper/link")).unwrap();
        symlink("../../../../../../etc/passwd", dir.join("upper/climb")).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        vec![Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![
                "index=off".into(),
                format!("lowerdir={}", path("lower")),
                "volatile".into(),
                format!("upperdir={}", path("upper")),
                format!("workdir={}", path("work")),
            ],
        }]
    }

    fn volume(dir: &Path, read_only: bool) -> VolumeMount {
        VolumeMount {
            source: dir.join("volume"),
            sub_path: PathBuf::new(),
            destination: "/data/deep".into(),
            read_only,
        }
    }

    fn read(root: &Root, path: &str) -> String {
        let found = root.find(Path::new(path), true).unwrap();
        fs::read_to_string(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap()
    }

    fn put(root: &Root, path: &str) -> Result<(), Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        berth_kernel::open_in_root(root.fd(), Path::new(path), flags, Mode::RUSR).map(drop)
    }

    fn is_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: needs root: mounts");
        }
        root
    }

    #[test]
    fn a_reader_sees_the_volumes_and_leaves_no_trace() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mounts = layer(dir.path());
        let place = dir.path().join("place");
        let root = open(&place, &mounts, &[volume(dir.path(), false)], false).unwrap();
        assert_eq!(read(&root, "/new"), "new");
        assert_eq!(read(&root, "/data/deep/file"), "on the volume");
        assert_eq!(put(&root, "/x"), Err(Errno::ROFS));
        assert_eq!(put(&root, "/data/deep/x"), Err(Errno::ROFS));
        assert!(!dir.path().join("upper/data").exists());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        assert_eq!(root.owner("app").unwrap(), (77, 78));
        assert!(root.owner("nobody-known").is_err());
    }

    #[test]
    fn a_writer_writes_to_the_layer_and_to_volumes_that_may_be_written() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mounts = layer(dir.path());
        let place = dir.path().join("place");
        for read_only in [false, true] {
            let root = open(&place, &mounts, &[volume(dir.path(), read_only)], true).unwrap();
            put(&root, "/link/made").unwrap();
            let expected = if read_only { Err(Errno::ROFS) } else { Ok(()) };
            assert_eq!(put(&root, &format!("/data/deep/{read_only}")), expected);
        }
        assert!(dir.path().join("upper/etc/made").exists());
        assert!(dir.path().join("volume/false").exists());
        assert!(!dir.path().join("volume/true").exists());
    }

    #[test]
    fn links_lead_nowhere_outside() {
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mounts = layer(dir.path());
        let root = open(&dir.path().join("place"), &mounts, &[], false).unwrap();
        let resolve = |path: &str, missing| root.resolve(Path::new(path), missing);
        for path in ["/climb", "/link/passwd", "/../link/./passwd"] {
            let found = resolve(path, Missing::Fails).unwrap();
            assert_eq!(found, Path::new("/etc/passwd"), "{path}");
            assert!(read(&root, path).starts_with("app:"), "{path}");
        }
        let kept = resolve("/link/none/more", Missing::IsKept).unwrap();
        assert_eq!(kept, Path::new("/etc/none/more"));
        assert_eq!(resolve("/link/none", Missing::Fails), Err(Errno::NOENT));
    }
}
