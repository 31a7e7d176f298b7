//! Archives into trees that are full, and whose owner works against it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_unpack::{Error, ExtractOptions, Refusal, extract};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root: owners");
    }
    root
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

/// What the system's tar makes of a directory.
fn archive(of: &Path, more: &[&str]) -> Vec<u8> {
    let mut tar = Command::new("tar");
    let output = tar.arg("-C").arg(of).args(more).args(["-cf", "-", "."]);
    output.output().unwrap().stdout
}

fn put(root: &Path, base: &str, archive: &[u8], keep_kinds: bool) -> Result<u64, Error> {
    let options = ExtractOptions {
        keep_kinds,
        ..ExtractOptions::default()
    };
    extract(archive, open(root).as_fd(), Path::new(base), &options)
}

#[test]
fn what_is_in_the_way_is_replaced_and_directories_are_merged() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, root) = (dir.path().join("source"), dir.path().join("root"));
    fs::create_dir_all(source.join("sub/new")).unwrap();
    fs::write(source.join("sub/file"), "new").unwrap();
    fs::write(source.join("was-directory"), "file").unwrap();
    fs::hard_link(source.join("sub/file"), source.join("sub/twin")).unwrap();
    symlink("/nowhere/../..", source.join("sub/link")).unwrap();
    std::os::unix::fs::chown(source.join("sub/file"), Some(12), Some(34)).unwrap();
    fs::set_permissions(source.join("sub/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::create_dir_all(root.join("to/sub/kept")).unwrap();
    fs::create_dir_all(root.join("to/was-directory/deep/er")).unwrap();
    fs::write(root.join("to/was-directory/deep/f"), "").unwrap();
    symlink("/etc/passwd", root.join("to/sub/file")).unwrap();
    put(&root, "/to", &archive(&source, &[]), false).unwrap();
    let file = fs::symlink_metadata(root.join("to/sub/file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode()), (12, 34, 0o104711));
    let twin = fs::metadata(root.join("to/sub/twin")).unwrap();
    assert_eq!((file.ino(), file.nlink()), (twin.ino(), 2));
    let link = fs::read_link(root.join("to/sub/link")).unwrap();
    assert_eq!(link, Path::new("/nowhere/../.."));
    assert!(root.join("to/sub/kept").is_dir() && root.join("to/sub/new").is_dir());
    assert_eq!(
        fs::read_to_string(root.join("to/was-directory")).unwrap(),
        "file"
    );
    let times = |path: &Path| fs::metadata(path).unwrap().mtime();
    assert_eq!(times(&root.join("to/sub")), times(&source.join("sub")));
}

#[test]
fn kinds_are_kept_where_that_is_asked_for_and_owners_given() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, root) = (dir.path().join("source"), dir.path().join("root"));
    fs::create_dir_all(&source).unwrap();
    fs::create_dir_all(root.join("a")).unwrap();
    fs::write(source.join("a"), "file").unwrap();
    let error = put(&root, "/", &archive(&source, &[]), true).unwrap_err();
    let refused = |error: &Error, expected| {
        assert!(
            matches!(error, Error::Refused { reason, .. } if *reason == expected),
            "{error}"
        );
    };
    refused(&error, Refusal::OverwritesDirectory);
    assert!(root.join("a").is_dir());
    fs::remove_file(source.join("a")).unwrap();
    fs::create_dir(source.join("a")).unwrap();
    fs::remove_dir(root.join("a")).unwrap();
    fs::write(root.join("a"), "file").unwrap();
    let error = put(&root, "/", &archive(&source, &[]), true).unwrap_err();
    refused(&error, Refusal::OverwritesFile);
    let options = ExtractOptions {
        owner: Some((1000, 1001)),
        ..ExtractOptions::default()
    };
    let packed = archive(&source, &["--gzip"]);
    extract(
        &packed[..],
        open(&root).as_fd(),
        Path::new("/new"),
        &options,
    )
    .unwrap_err();
    extract(&packed[..], open(&root).as_fd(), Path::new("/"), &options).unwrap();
    let made = fs::metadata(root.join("a")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1001));
}

#[test]
fn no_name_or_link_leads_out() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("in")).unwrap();
    symlink("/../../../out", root.join("in/absolute")).unwrap();
    symlink("../../../out", root.join("in/climbs")).unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    let named = |name: &str| {
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("f"), "x").unwrap();
        let transform = format!("--transform=s,^./f$,{name},");
        archive(source.path(), &["-P", "--no-recursion", &transform, "./f"])
    };
    for name in ["../out/f", "in/../../out/f", "/../out/f"] {
        assert!(put(&root, "/", &named(name), false).is_err(), "{name}");
    }
    for name in ["in/absolute/f", "in/climbs/f"] {
        let _made_inside_or_refused = put(&root, "/", &named(name), false);
    }
    assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 0);
}

#[test]
fn a_directory_that_is_exchanged_for_a_link_all_the_time_leads_nowhere() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, out) = (dir.path().join("root"), dir.path().join("out"));
    fs::create_dir_all(root.join("v/dir/sub")).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("kept"), "untouched").unwrap();
    symlink(&out, root.join("v/link")).unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("v/dir/sub")).unwrap();
    for file in ["v/dir/kept", "v/dir/new", "v/dir/sub/f"] {
        fs::write(source.join(file), "evil").unwrap();
    }
    let packed = archive(&source, &[]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, other) = (root.join("v/dir"), root.join("v/link"));
            while !stop.load(Ordering::Relaxed) {
                let _lost_to_the_other =
                    rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
            }
        });
        for _ in 0..500 {
            let _made_inside_or_refused = put(&root, "/", &packed, false);
            // What was replaced is a link again for the next round.
            let _there_already = symlink(&out, root.join("v/link"));
            let _there_already = symlink(&out, root.join("v/dir"));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(out.join("kept")).unwrap(), "untouched");
}

#[test]
fn what_others_remove_and_make_meanwhile_fails_nobody() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, source) = (dir.path().join("root"), dir.path().join("source"));
    fs::create_dir_all(root.join("v")).unwrap();
    fs::create_dir_all(source.join("v/dir")).unwrap();
    fs::write(source.join("v/dir/file"), "new").unwrap();
    symlink("nowhere", source.join("v/link")).unwrap();
    let packed = archive(&source, &[]);
    let stop = AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        scope.spawn(|| {
            let place = |name: &str| root.join("v").join(name);
            while !stop.load(Ordering::Relaxed) {
                let _there_or_not = fs::rename(place("dir"), place("away"));
                let _there_or_not = fs::remove_dir_all(place("away"));
                let _there_or_not = fs::remove_file(place("link"));
                let _there_or_not = fs::write(place("link"), "");
            }
        });
        let puts = (0..1000).map(|_| put(&root, "/", &packed, false));
        let failed: Vec<_> = puts.filter_map(Result::err).collect();
        stop.store(true, Ordering::Relaxed);
        failed
    });
    assert!(
        failed.is_empty(),
        "{} of 1000: {:?}",
        failed.len(),
        failed[0]
    );
}

#[test]
fn a_file_that_is_mounted_is_written_into() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (root, source) = (dir.path().join("root"), dir.path().join("source"));
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(source.join("etc")).unwrap();
    fs::write(root.join("etc/hosts"), "of the layer").unwrap();
    fs::write(source.join("etc/hosts"), "new").unwrap();
    let mounted = dir.path().join("mounted");
    fs::write(&mounted, "longer than what is written to it").unwrap();
    let place = root.join("etc/hosts");
    let mount = |words: &[&std::ffi::OsStr]| Command::new("mount").args(words).status().unwrap();
    assert!(mount(&["--bind".as_ref(), mounted.as_os_str(), place.as_os_str()]).success());
    let packed = archive(&source, &[]);
    let done = put(&root, "/", &packed, false);
    // Neither by a directory is it replaced.
    fs::remove_file(source.join("etc/hosts")).unwrap();
    fs::create_dir(source.join("etc/hosts")).unwrap();
    let refused = put(&root, "/", &archive(&source, &[]), false);
    assert!(
        Command::new("umount")
            .arg(&place)
            .status()
            .unwrap()
            .success()
    );
    done.unwrap();
    assert!(refused.is_err());
    assert_eq!(fs::read_to_string(&mounted).unwrap(), "new");
    assert_eq!(fs::read_to_string(&place).unwrap(), "of the layer");
}
