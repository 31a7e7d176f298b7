//! Trees to archives: what an upper directory changes, as a layer and as a list.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use berth_unpack::{Change, Options, TreeOptions, Upper, apply, changes, pack_layer, pack_tree};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, makedev};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root: owners, devices and marks of the overlay");
    }
    root
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn mark(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn whiteout(path: &Path) {
    let kind = FileType::CharacterDevice;
    rustix::fs::mknodat(CWD, path, kind, Mode::empty(), makedev(0, 0)).unwrap();
}

/// A lower directory and one that changes it in every way.
fn pair(dir: &Path) {
    let (lower, upper) = (dir.join("lower"), dir.join("upper"));
    for made in ["etc", "gone", "again/old", "same", "looks", "deep/er"] {
        fs::create_dir_all(lower.join(made)).unwrap();
    }
    for file in [
        "etc/passwd",
        "etc/removed",
        "again/kept",
        "again/lost",
        "deep/er/f",
    ] {
        fs::write(lower.join(file), "below").unwrap();
    }
    for made in [
        "etc",
        "again",
        "same",
        "looks",
        "deep/er",
        "new/mnt/point",
        "data",
        "opaque",
    ] {
        fs::create_dir_all(upper.join(made)).unwrap();
    }
    fs::write(upper.join("etc/passwd"), "changed").unwrap();
    whiteout(&upper.join("etc/removed"));
    whiteout(&upper.join("gone"));
    whiteout(&upper.join("never-there"));
    mark(&upper.join("again"), "trusted.overlay.opaque", b"y");
    fs::write(upper.join("again/kept"), "new").unwrap();
    mark(&upper.join("opaque"), "trusted.overlay.opaque", b"y");
    fs::set_permissions(upper.join("looks"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(upper.join("etc/hosts"), "").unwrap();
    let file = upper.join("opaque/file");
    fs::write(&file, vec![7; 70_000]).unwrap();
    chown(&file, Some(3_000_000), Some(8)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
    mark(&file, "user.kept", b"a\nb");
    mark(&file, "trusted.private", b"no");
    mark(&file, "trusted.overlay.origin", b"no");
    fs::hard_link(&file, upper.join("opaque/twin")).unwrap();
    symlink("../etc/shadow", upper.join("opaque/link")).unwrap();
    let (kind, mode) = (FileType::BlockDevice, Mode::from_raw_mode(0o640));
    rustix::fs::mknodat(
        CWD,
        upper.join("opaque/disk"),
        kind,
        mode,
        makedev(259, 70_000),
    )
    .unwrap();
    let long = "n".repeat(150);
    fs::write(upper.join("opaque").join(&long), "").unwrap();
    symlink(format!("/{long}"), upper.join("opaque/long-link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("opaque/socket")).unwrap();
}

fn mount_points() -> Vec<Vec<u8>> {
    ["etc/hosts", "data", "new/mnt/point"]
        .map(Vec::from)
        .to_vec()
}

fn packed(upper: &Path, lower: Option<&Path>) -> Vec<u8> {
    packed_until(upper, lower, None)
}

fn packed_until(upper: &Path, lower: Option<&Path>, latest: Option<u64>) -> Vec<u8> {
    let (upper, lower) = (open(upper), lower.map(open));
    let mut out = Vec::new();
    let upper = Upper {
        dir: upper.as_fd(),
        lower: lower.as_ref().map(AsFd::as_fd),
        mount_points: &mount_points(),
    };
    let told = pack_layer(&upper, latest, &mut out).unwrap();
    assert_eq!(told.bytes, out.len() as u64);
    out
}

/// Names in the order of the archive, by the system's tar.
fn listed(archive: &[u8]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), archive).unwrap();
    let output = Command::new("tar")
        .arg("-tf")
        .arg(file.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_layer_says_what_changed_and_nothing_else() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    pair(dir.path());
    let archive = packed(&dir.path().join("upper"), Some(&dir.path().join("lower")));
    let long = format!("opaque/{}", "n".repeat(150));
    let expected = [
        "again/",
        "again/.wh..wh..opq",
        "again/kept",
        "etc/",
        "etc/passwd",
        "etc/.wh.removed",
        ".wh.gone",
        "looks/",
        "opaque/",
        "opaque/disk",
        "opaque/file",
        "opaque/link",
        "opaque/long-link",
        &long,
        "opaque/twin",
    ];
    assert_eq!(listed(&archive), expected);
    let text = String::from_utf8_lossy(&archive);
    assert!(text.contains("SCHILY.xattr.user.kept=a\nb\n"));
    assert!(
        !text.contains("trusted."),
        "the overlay's own is not packed"
    );
}

#[test]
fn a_layer_unpacked_and_packed_again_is_the_same_to_the_byte() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    pair(dir.path());
    let lower = dir.path().join("lower");
    let archive = packed(&dir.path().join("upper"), Some(&lower));
    let again = dir.path().join("unpacked");
    fs::create_dir(&again).unwrap();
    apply(&archive[..], open(&again).as_fd(), &Options::default()).unwrap();
    assert_eq!(packed(&again, Some(&lower)), archive);
    let of_tar = dir.path().join("of-tar");
    fs::create_dir(&of_tar).unwrap();
    fs::write(dir.path().join("a.tar"), &archive).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(&of_tar)
        .args(["--xattrs", "--same-owner", "-xpf"]);
    assert!(
        tar.arg(dir.path().join("a.tar"))
            .status()
            .unwrap()
            .success()
    );
    let file = fs::metadata(of_tar.join("opaque/twin")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777),
        (3_000_000, 8, 0o4755)
    );
    assert_eq!((file.nlink(), file.len()), (2, 70_000));
    let disk = fs::metadata(of_tar.join("opaque/disk")).unwrap();
    assert_eq!(disk.rdev(), makedev(259, 70_000));
}

#[test]
fn nothing_in_a_layer_is_younger_than_what_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let upper = dir.path().join("upper");
    fs::create_dir_all(upper.join("d")).unwrap();
    fs::write(upper.join("d/young"), "x").unwrap();
    let old = fs::File::create(upper.join("old")).unwrap();
    let moment = std::time::UNIX_EPOCH + std::time::Duration::from_secs(900);
    old.set_modified(moment).unwrap();
    symlink("old", upper.join("link")).unwrap();
    let archive = packed_until(&upper, None, Some(1000));
    let mut times = Vec::new();
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        times.push((path, entry.header().mtime().unwrap()));
    }
    let expected = [
        ("d/", 1000),
        ("d/young", 1000),
        ("link", 1000),
        ("old", 900),
    ];
    assert_eq!(times, expected.map(|(path, time)| (path.to_owned(), time)));
}

#[test]
fn without_a_lower_directory_every_directory_is_packed() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    pair(dir.path());
    let names = listed(&packed(&dir.path().join("upper"), None));
    for name in [
        "same/",
        "opaque/.wh..wh..opq",
        "again/.wh..wh..opq",
        ".wh.never-there",
    ] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
}

#[test]
fn changes_are_told_as_modified_added_and_deleted() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    pair(dir.path());
    let (upper, lower) = (
        open(&dir.path().join("upper")),
        open(&dir.path().join("lower")),
    );
    let points = mount_points();
    let upper = Upper {
        dir: upper.as_fd(),
        lower: Some(lower.as_fd()),
        mount_points: &points,
    };
    let mut told = Vec::new();
    changes(&upper, |change, path| {
        let letter = match change {
            Change::Modified => 'C',
            Change::Added => 'A',
            Change::Deleted => 'D',
        };
        let path = String::from_utf8_lossy(path).into_owned();
        told.push(format!("{letter} {path}"));
        Ok(())
    })
    .unwrap();
    told.retain(|line| !line.starts_with("A opaque/"));
    let expected = [
        "C again",
        "D again/lost",
        "D again/old",
        "C again/kept",
        "C etc",
        "C etc/passwd",
        "D etc/removed",
        "D gone",
        "C looks",
        "A opaque",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_tree_is_packed_under_another_name_and_windows_into_the_kernel_stay_shut() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("sub/dev")).unwrap();
    fs::write(dir.path().join("sub/dev/null"), "").unwrap();
    fs::write(dir.path().join("sub/f"), "content").unwrap();
    let pack = |path: &Path, options: &TreeOptions<'_>| {
        let top = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
        let mut out = Vec::new();
        pack_tree(top.as_fd(), &mut out, options).unwrap();
        listed(&out)
    };
    let sub = dir.path().join("sub");
    let options = TreeOptions {
        name: Some(b"other"),
        shallow: &[],
    };
    let expected = ["other/", "other/dev/", "other/dev/null", "other/f"];
    assert_eq!(pack(&sub, &options), expected);
    assert_eq!(pack(&sub.join("f"), &options), ["other"]);
    let options = TreeOptions {
        name: None,
        shallow: &[b"dev"],
    };
    assert_eq!(pack(&sub, &options), ["dev/", "f"]);
    let options = TreeOptions {
        name: Some(b"proc"),
        shallow: &[],
    };
    assert_eq!(pack(Path::new("/proc"), &options), ["proc/"]);
}
