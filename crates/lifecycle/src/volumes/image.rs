//! Mounts of images.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use berth_kernel::{AttributeChange, MountFlags, Namespace, NamespaceSet, Propagation};
use berth_snapshots::Mount;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files;

/// An image as a volume is data: nothing in it runs, and no device node in it works (KEP-4639).
const FLAGS: MountFlags = MountFlags::MOUNT_ATTR_RDONLY
    .union(MountFlags::MOUNT_ATTR_NOSUID)
    .union(MountFlags::MOUNT_ATTR_NODEV)
    .union(MountFlags::MOUNT_ATTR_NOEXEC);

/// Refuses what cannot be a path inside an image. Links in it may lead anywhere, inside the image.
pub fn check_sub_path(path: &str) -> Result<()> {
    let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if Path::new(path).components().all(inside) {
        return Ok(());
    }
    let problem = format!("{path:?}: give a relative path without `..`");
    Err(Error::invalid("mounts.image_sub_path", problem))
}

/// Mounts the image whose view has these `mounts`, or what is at `sub_path` in it, on `place`,
/// which is made. Its owners are shown in the user namespace at `user`, if there is one. Blocking.
pub fn mount(mounts: &[Mount], sub_path: &str, place: &Path, user: Option<&Path>) -> Result<()> {
    let failed = |errno: Errno| Error::State {
        action: "mount an image on",
        path: place.to_owned(),
        source: errno.into(),
    };
    if let Some(parent) = place.parent() {
        files::make_dir(parent)?;
    }
    files::make_dir(place)?;
    let shift = user.map(berth_kernel::open_namespace).transpose();
    let shift = shift.map_err(failed)?;
    let whole = detached(mounts, shift.as_ref()).map_err(failed)?;
    attach(&whole, place).map_err(failed)?;
    if sub_path.is_empty() {
        return Ok(());
    }
    // Kernels before 6.15 copy no mount that is not attached, so that the whole image is, for the
    // moment that it takes to find the path.
    let part = part(&whole, sub_path);
    berth_kernel::detach(place).map_err(failed)?;
    let (part, is_directory) = part.map_err(|errno| {
        let problem = format!("{sub_path:?} in the image: {}", std::io::Error::from(errno));
        Error::invalid("mounts.image_sub_path", problem)
    })?;
    if !is_directory {
        become_file(place)?;
    }
    attach(&part, place).map_err(failed)
}

/// Mounts what is at `sub_path` in a directory of the host on `place`, which is made. The path is
/// resolved once, inside the directory, and what was found is mounted: whoever can write to the
/// directory leads it nowhere else. Blocking.
pub fn mount_part(directory: &Path, sub_path: &str, place: &Path) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let whole = rustix::fs::open(directory, flags, Mode::empty());
    let found = whole.and_then(|whole| part(&whole, sub_path));
    let (found, is_directory) = found.map_err(|errno| {
        let path = directory.join(sub_path);
        let problem = format!(
            "cannot access path {}: {}",
            path.display(),
            std::io::Error::from(errno)
        );
        Error::invalid("mounts.sub_path", problem)
    })?;
    if let Some(parent) = place.parent() {
        files::make_dir(parent)?;
    }
    files::make_dir(place)?;
    if !is_directory {
        become_file(place)?;
    }
    attach(&found, place).map_err(|errno| Error::State {
        action: "mount a part of a volume on",
        path: place.to_owned(),
        source: errno.into(),
    })
}

/// The view as a mount that is nowhere yet.
fn detached(mounts: &[Mount], shift: Option<&OwnedFd>) -> Result<OwnedFd, Errno> {
    let [mount] = mounts else {
        return Err(Errno::INVAL);
    };
    let whole = match (mount.kind.as_str(), shift) {
        ("bind", _) => {
            let copy = berth_kernel::clone_tree(CWD, Path::new(&mount.source), false)?;
            if let Some(shift) = shift {
                map_ids(&copy, shift)?;
            }
            copy
        }
        ("overlay", None) => overlay(&mount.options)?,
        ("overlay", Some(shift)) => mapped_overlay(&mount.options, shift)?,
        _ => return Err(Errno::NODEV),
    };
    let change = AttributeChange {
        set: FLAGS,
        propagation: Some(Propagation::Private),
        ..AttributeChange::default()
    };
    berth_kernel::set_attributes(&whole, &change, None, false)?;
    Ok(whole)
}

fn overlay(options: &[String]) -> Result<OwnedFd, Errno> {
    let mut layers = Vec::new();
    let mut others = Vec::new();
    for option in options {
        match option.split_once('=') {
            Some(("lowerdir", list)) => layers.extend(list.split(':').map(Path::new)),
            Some((key, value)) => others.push((key, Some(value))),
            None if option == "ro" => {}
            None => others.push((option.as_str(), None)),
        }
    }
    berth_kernel::mount_overlay(&layers, &others, FLAGS)
}

/// An overlay cannot be mapped as a whole, but is made of mapped layers if those cover the layers
/// where it is made: in a mount namespace that only this moment's thread sees.
fn mapped_overlay(options: &[String], shift: &OwnedFd) -> Result<OwnedFd, Errno> {
    let make = || {
        berth_kernel::unshare(NamespaceSet::EMPTY.with(Namespace::Mount))?;
        berth_kernel::set_propagation(Path::new("/"), Propagation::Private, true)?;
        let lists = options.iter().filter_map(|o| o.strip_prefix("lowerdir="));
        for layer in lists.flat_map(|list| list.split(':')).map(Path::new) {
            let copy = berth_kernel::clone_tree(CWD, layer, false)?;
            map_ids(&copy, shift)?;
            attach(&copy, layer)?;
        }
        overlay(options)
    };
    std::thread::scope(|scope| scope.spawn(make).join()).unwrap_or(Err(Errno::IO))
}

fn map_ids(mount: &OwnedFd, shift: &OwnedFd) -> Result<(), Errno> {
    berth_kernel::set_attributes(mount, &AttributeChange::default(), Some(shift), false)
}

/// What is at `path` in the image, as a mount of its own, and whether that is a directory.
fn part(image: &OwnedFd, path: &str) -> Result<(OwnedFd, bool), Errno> {
    let found = berth_kernel::open_in_root(image, Path::new(path), OFlags::PATH, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    let part = berth_kernel::clone_tree(&found, Path::new(""), false)?;
    Ok((part, kind == FileType::Directory))
}

fn attach<M: AsFd>(mount: M, place: &Path) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::open(place, flags, Mode::empty())?;
    berth_kernel::attach(mount, target)
}

fn become_file(place: &Path) -> Result<()> {
    fs::remove_dir(place)
        .and_then(|()| fs::File::create_new(place))
        .map(drop)
        .map_err(|source| Error::State {
            action: "make a file of",
            path: place.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn mounts_below(dir: &Path) -> usize {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let below = |line: &&str| {
            let point = line.split(' ').nth(4).unwrap();
            Path::new(point).starts_with(dir)
        };
        table.lines().filter(below).count()
    }

    /// Two layers: the upper one hides `gone` and adds links.
    fn layers(dir: &Path) -> Vec<Mount> {
        let (lower, upper) = (dir.join("lower"), dir.join("upper"));
        fs::create_dir_all(lower.join("v1/deep")).unwrap();
        fs::create_dir_all(upper.join("v1")).unwrap();
        fs::write(lower.join("v1/deep/file"), "content").unwrap();
        fs::write(lower.join("v1/gone"), "").unwrap();
        let whiteout = rustix::fs::makedev(0, 0);
        rustix::fs::mknodat(
            CWD,
            upper.join("v1/gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            whiteout,
        )
        .unwrap();
        symlink("/v1", upper.join("current")).unwrap();
        symlink("../../../../etc", upper.join("climb")).unwrap();
        let list = format!("lowerdir={}:{}", upper.display(), lower.display());
        vec![Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![list, "ro".into()],
        }]
    }

    #[test]
    fn a_sub_path_stays_inside_the_image() {
        for bad in ["/abs", "..", "a/../b", "a/.."] {
            assert!(check_sub_path(bad).is_err(), "{bad}");
        }
        for good in ["", "a", "a/b", "./a"] {
            assert!(check_sub_path(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn an_image_or_a_part_of_it_is_one_read_only_mount() {
        if !is_root() {
            eprintln!("skipped: needs root: mounts");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = layers(dir.path());
        let cases = [
            ("", "v1/deep/file"),
            ("v1", "deep/file"),
            ("current/deep", "file"),
            ("v1/deep/file", ""),
        ];
        for (number, (sub_path, file)) in cases.into_iter().enumerate() {
            let place = dir.path().join(format!("volumes/{number}"));
            mount(&image, sub_path, &place, None).unwrap();
            let file = place.join(file);
            assert_eq!(mounts_below(&place), 1, "{sub_path:?}");
            assert_eq!(
                fs::read_to_string(file.components().collect::<std::path::PathBuf>()).unwrap(),
                "content",
                "{sub_path:?}"
            );
            assert!(!place.join("gone").exists());
            let written = fs::write(place.join("new"), "").unwrap_err();
            assert_ne!(written.kind(), std::io::ErrorKind::NotFound, "{sub_path:?}");
            berth_kernel::detach(&place).unwrap();
        }
        assert_eq!(mounts_below(dir.path()), 0);
    }

    #[test]
    fn a_part_that_is_not_there_or_outside_leaves_no_mount() {
        if !is_root() {
            eprintln!("skipped: needs root: mounts");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = layers(dir.path());
        for missing in ["nothing", "v1/gone", "climb", "climb/passwd"] {
            let place = dir.path().join("volumes/0");
            let error = mount(&image, missing, &place, None).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{missing}: {error}");
            assert_eq!(mounts_below(dir.path()), 0, "{missing}");
        }
    }

    #[test]
    fn a_part_of_a_directory_is_found_in_it_alone() {
        if !is_root() {
            eprintln!("skipped: needs root: mounts");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::write(volume.join("a/b/file"), "inside").unwrap();
        symlink("/a/b", volume.join("absolute")).unwrap();
        symlink("../../../../etc", volume.join("climb")).unwrap();
        let places = [("a/b", "file"), ("absolute", "file"), ("a/b/file", "")];
        for (number, (sub_path, file)) in places.into_iter().enumerate() {
            let place = dir.path().join(format!("parts/{number}"));
            mount_part(&volume, sub_path, &place).unwrap();
            let file: std::path::PathBuf = place.join(file).components().collect();
            assert_eq!(fs::read_to_string(file).unwrap(), "inside", "{sub_path}");
            berth_kernel::detach(&place).unwrap();
        }
        for missing in ["none", "climb"] {
            let place = dir.path().join("parts/none");
            let error = mount_part(&volume, missing, &place).unwrap_err();
            assert!(
                error.to_string().contains("No such file"),
                "{missing}: {error}"
            );
            assert!(!place.exists());
        }
    }

    #[test]
    fn in_a_user_namespace_an_image_has_owners_that_are_there() {
        use berth_kernel::{IdMapping, NamespaceHolder};
        use std::os::unix::fs::{MetadataExt, chown};
        if !is_root() {
            eprintln!("skipped: needs root: mounts");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        if !crate::user_namespaces_supported_at(dir.path()) {
            eprintln!("skipped: needs mapped mounts of {}", dir.path().display());
            return;
        }
        let ids = |outside| IdMapping {
            inside: 0,
            outside,
            length: 100,
        };
        let holder = NamespaceHolder::new(NamespaceSet::EMPTY.with(Namespace::User)).unwrap();
        holder.map_ids(&[ids(70_000)], &[ids(80_000)]).unwrap();
        let user = holder.namespace(Namespace::User);
        let mut image = layers(dir.path());
        chown(dir.path().join("lower/v1/deep/file"), Some(7), Some(8)).unwrap();
        let one = Mount {
            kind: "bind".into(),
            source: dir.path().join("lower").display().to_string(),
            target: String::new(),
            options: vec!["ro".into()],
        };
        for (number, sub_path) in ["", "current", ""].into_iter().enumerate() {
            if number == 2 {
                image = vec![one.clone()];
            }
            let place = dir.path().join(format!("volumes/{number}"));
            mount(&image, sub_path, &place, Some(&user)).unwrap();
            let file = match sub_path {
                "" => place.join("v1/deep/file"),
                _ => place.join("deep/file"),
            };
            let owner = fs::metadata(file).unwrap();
            assert_eq!((owner.uid(), owner.gid()), (70_007, 80_008), "{number}");
            berth_kernel::detach(&place).unwrap();
        }
        assert_eq!(mounts_below(dir.path()), 0);
        let owner = fs::metadata(dir.path().join("lower/v1/deep/file")).unwrap();
        assert_eq!(owner.uid(), 7, "on the disk");
    }
}
