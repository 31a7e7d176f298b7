//! What honest layers become.

// A failed expectation here is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archive;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use archive::*;
use berth_names::Digest;
use berth_unpack::{Options, apply_compressed};

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let count = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(count);
    Some(value)
}

fn is_opaque(path: &Path) -> bool {
    xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

#[test]
fn owners_modes_and_times_are_as_the_archive_says() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let archive = Tar::new()
        .entry(&Entry::dir("./").mode(0o1711).owner(3, 4))
        .entry(&Entry::dir("d").mode(0o2750).owner(5, 6))
        .entry(&Entry::file("d/setuid", "x").mode(0o4755).owner(7, 8))
        .pax(&[
            ("mtime", b"1500000000.123456789"),
            ("uid", b"3000000"),
            ("gid", b"3000001"),
        ])
        .entry(&Entry::file("d/later", "x").mode(0o600))
        .entry(&Entry::symlink("d/link", "/no/where").owner(9, 10))
        .entry(&Entry::new(b'6', "d/fifo").mode(0o620))
        .entry(&Entry::device("d/null", 1, 3).mode(0o666))
        .entry(&Entry {
            kind: b'4',
            ..Entry::device("d/disk", 7, 300)
        })
        .end();
    let (root, applied) = place.good(&archive);
    let look = |path: &str| {
        let m = fs::symlink_metadata(root.join(path)).unwrap();
        (
            m.mode() & 0o7777,
            m.uid(),
            m.gid(),
            m.mtime(),
            m.mtime_nsec(),
        )
    };
    assert_eq!(look(""), (0o1711, 3, 4, 1_600_000_000, 0));
    assert_eq!(
        look("d"),
        (0o2750, 5, 6, 1_600_000_000, 0),
        "the directory's time comes last"
    );
    assert_eq!(look("d/setuid"), (0o4755, 7, 8, 1_600_000_000, 0));
    assert_eq!(
        look("d/later"),
        (0o600, 3_000_000, 3_000_001, 1_500_000_000, 123_456_789)
    );
    assert_eq!(look("d/link"), (0o777, 9, 10, 1_600_000_000, 0));
    assert_eq!(
        fs::read_link(root.join("d/link")).unwrap(),
        Path::new("/no/where")
    );
    assert_eq!(look("d/fifo"), (0o620, 0, 0, 1_600_000_000, 0));
    let null = fs::symlink_metadata(root.join("d/null")).unwrap();
    assert_eq!(
        (null.rdev(), null.mode() & 0o7777),
        (rustix::fs::makedev(1, 3), 0o666)
    );
    let disk = fs::symlink_metadata(root.join("d/disk")).unwrap();
    assert!(disk.file_type().is_block_device() && disk.rdev() == rustix::fs::makedev(7, 300));
    assert_eq!((applied.entries, applied.inodes, applied.bytes), (8, 8, 2));
    assert_eq!(applied.diff_id, Digest::sha256_of(&archive));
    assert_eq!(applied.stream_bytes, archive.len() as u64);
}

#[test]
fn parents_that_no_entry_names_are_plain() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let archive = Tar::of([
        Entry::dir("s").mode(0o2777).owner(5, 6),
        Entry::file("s/a/b/f", "x"),
    ])
    .end();
    let (root, applied) = place.good(&archive);
    for path in ["s/a", "s/a/b"] {
        let m = fs::metadata(root.join(path)).unwrap();
        assert_eq!(
            (m.mode() & 0o7777, m.uid(), m.gid()),
            (0o755, 0, 0),
            "{path}"
        );
    }
    assert_eq!(applied.inodes, 5);
}

#[test]
fn whiteouts_hide_what_is_beneath_and_nothing_of_their_own_layer_in_any_order() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let dir = || [Entry::dir("d"), Entry::file("d/new", "x")];
    let file = || [Entry::file("f", "x")];
    let (gone_d, gone_f) = (Entry::file(".wh.d", ""), Entry::file(".wh.f", ""));
    let first = Tar::of(
        [gone_d.clone(), gone_f.clone()]
            .into_iter()
            .chain(dir())
            .chain(file()),
    );
    let last = Tar::of(
        dir()
            .into_iter()
            .chain(file())
            .chain([gone_d.clone(), gone_f]),
    );
    let implied = Tar::of([gone_d, Entry::file("d/new", "x"), Entry::file("f", "x")]);
    for tar in [first, last, implied] {
        let (root, _) = place.good(&tar.end());
        assert_eq!(fs::read(root.join("d/new")).unwrap(), b"x");
        assert_eq!(fs::read(root.join("f")).unwrap(), b"x");
        assert!(
            is_opaque(&root.join("d")),
            "the directory beneath must not shine through"
        );
    }
    let (root, applied) = place.good(&Tar::of([Entry::file("a/.wh.gone", "ignored")]).end());
    assert!(is_whiteout(&root.join("a/gone")));
    assert_eq!((applied.inodes, applied.bytes), (3, 0));
}

#[test]
fn opaque_marks_work_before_and_after_their_directory() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let mark = || Entry::file("d/.wh..wh..opq", "");
    for entries in [
        vec![Entry::dir("d"), mark(), Entry::file("d/f", "x")],
        vec![mark(), Entry::dir("d"), Entry::file("d/f", "x")],
        vec![Entry::file("d/f", "x"), mark()],
    ] {
        let (root, _) = place.good(&Tar::of(entries).end());
        assert!(is_opaque(&root.join("d")));
        assert_eq!(fs::read(root.join("d/f")).unwrap(), b"x");
    }
    let (root, _) = place.good(&Tar::of([Entry::file(".wh..wh..opq", "")]).end());
    assert!(is_opaque(&root));
}

#[test]
fn bookkeeping_of_other_union_filesystems_is_left_out() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let archive = Tar::of([
        Entry::dir(".wh..wh.plnk"),
        Entry::file(".wh..wh.plnk/12.34", "data"),
        Entry::file(".wh..wh.aufs", "data"),
        Entry::file("f", "x"),
    ]);
    let (root, _) = place.good(&archive.end());
    assert_eq!(fs::read_dir(root).unwrap().count(), 1);
}

#[test]
fn the_last_of_several_entries_for_one_name_stays() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let archive = Tar::of([
        Entry::file("a", "first"),
        Entry::file("a", "second"),
        Entry::symlink("b", "a"),
        Entry::file("b", "no longer a link"),
        Entry::dir("c"),
        Entry::file("c", "no longer a directory"),
        Entry::file("d", "x"),
        Entry::dir("d"),
        Entry::file("e", "x"),
        Entry::hard_link("e", "e"),
        Entry::hard_link("./e", "/e"),
        Entry::dir("g").mode(0o700),
        Entry::file("g/kept", "x"),
        Entry::dir("g").mode(0o711),
    ]);
    let (root, applied) = place.good(&archive.end());
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(
        (read("a"), read("b")),
        ("second".into(), "no longer a link".into())
    );
    assert_eq!(
        (read("c"), read("e")),
        ("no longer a directory".into(), "x".into())
    );
    assert!(root.join("d").is_dir());
    assert_eq!(read("g/kept"), "x");
    assert_eq!(fs::metadata(root.join("g")).unwrap().mode() & 0o7777, 0o711);
    assert_eq!(applied.inodes, 8);
}

#[test]
fn links_between_entries_stay_in_the_layer() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let archive = Tar::of([
        Entry::symlink("lib", "usr/lib"),
        Entry::symlink("abs", "/usr/lib"),
        Entry::symlink("far", "../../../usr/lib64/../share"),
        Entry::file("lib/a", "1"),
        Entry::file("abs/b", "2"),
        Entry::file("far/c", "3"),
        Entry::hard_link("same", "abs/a"),
        Entry::hard_link("soft", "lib"),
    ]);
    let (root, applied) = place.good(&archive.end());
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(
        (read("usr/lib/a"), read("usr/lib/b")),
        ("1".into(), "2".into())
    );
    assert_eq!(read("usr/share/c"), "3");
    assert_eq!(fs::metadata(root.join("same")).unwrap().nlink(), 2);
    assert!(
        fs::symlink_metadata(root.join("soft"))
            .unwrap()
            .file_type()
            .is_symlink()
    );
    assert_eq!(
        applied.inodes,
        1 + 3 + 5 + 2,
        "root, links, directories, files"
    );
}

#[test]
fn attributes_are_set_and_labels_of_other_hosts_left_out() {
    let Some(mut place) = Place::new() else {
        return;
    };
    // cap_net_bind_service, permitted and effective, revision 2.
    let mut capability = vec![1, 0, 0, 2, 0, 4, 0, 0];
    capability.resize(20, 0);
    let archive = Tar::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"a\0b\n"),
            (
                "SCHILY.xattr.security.selinux",
                b"system_u:object_r:bin_t:s0",
            ),
            ("SCHILY.xattr.trusted.other", b"1"),
        ])
        .entry(&Entry::file("ping", "x").mode(0o755).owner(5, 6))
        .pax(&[("LIBARCHIVE.xattr.user.enc%20oded", b"AQID")])
        .entry(&Entry::dir("d"))
        .end();
    let (root, applied) = place.good(&archive);
    assert_eq!(
        xattr(&root.join("ping"), "security.capability"),
        Some(capability)
    );
    assert_eq!(
        xattr(&root.join("ping"), "user.note").as_deref(),
        Some(&b"a\0b\n"[..])
    );
    assert_eq!(
        xattr(&root.join("d"), "user.enc oded").as_deref(),
        Some(&[1, 2, 3][..])
    );
    assert_eq!(xattr(&root.join("ping"), "trusted.other"), None);
    assert_eq!(applied.xattrs_skipped, 2);
}

#[test]
fn global_times_apply_until_an_entry_has_its_own() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let archive = Tar::new()
        .extended(b'g', &[("comment", b"0123abcd"), ("mtime", b"77")])
        .entry(&Entry::file("a", "x"))
        .pax(&[("mtime", b"88")])
        .entry(&Entry::file("b", "x"))
        .end();
    let (root, _) = place.good(&archive);
    assert_eq!(fs::metadata(root.join("a")).unwrap().mtime(), 77);
    assert_eq!(fs::metadata(root.join("b")).unwrap().mtime(), 88);
}

#[test]
fn the_digest_covers_padding_and_what_follows_the_end() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let mut archive = Tar::of([Entry::file("f", "x")]).end();
    archive.resize(2 << 20, 0);
    archive.extend_from_slice(b"trailer");
    let (_, applied) = place.good(&archive);
    assert_eq!(applied.diff_id, Digest::sha256_of(&archive));
    assert_eq!(place.good(&[]).1.diff_id, Digest::sha256_of(b""));
}

#[test]
fn compressed_layers_have_the_digest_of_their_archive() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
    let archive = Tar::of([Entry::file("f", &data)]).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive).unwrap();
    let layers = [
        archive.clone(),
        gzip.finish().unwrap(),
        zstd::encode_all(&archive[..], 1).unwrap(),
    ];
    for layer in &layers {
        let target = place.target();
        let dir = fs::File::open(&target).unwrap();
        let applied = apply_compressed(&layer[..], dir.as_fd(), &Options::default()).unwrap();
        assert_eq!(applied.diff_id, Digest::sha256_of(&archive));
        assert_eq!(fs::read(target.join("f")).unwrap(), data);
        let cut = &layer[..layer.len() - layer.len() / 3];
        let target = fs::File::open(place.target()).unwrap();
        assert!(apply_compressed(cut, target.as_fd(), &Options::default()).is_err());
    }
}

#[test]
fn a_failing_reader_is_told_apart_from_a_bad_archive() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("connection lost"))
        }
    }
    let Some(mut place) = Place::new() else {
        return;
    };
    let begun = Tar::of([Entry::file("f", "x")]).0;
    let target = fs::File::open(place.target()).unwrap();
    let error = apply_compressed(
        begun.as_slice().chain(Failing),
        target.as_fd(),
        &Options::default(),
    )
    .unwrap_err();
    assert!(
        matches!(error, berth_unpack::Error::Read { .. }),
        "{error:?}"
    );
    assert!(!error.is_bad_archive());
}

/// Archives by GNU tar of a tree with everything that it knows to store.
#[test]
fn what_gnu_tar_packs_comes_out_the_same() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let source = place.target();
    furnish(&source);
    let formats: [&[&str]; 7] = [
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=posix", "--xattrs", "--xattrs-include=*"],
        &["--format=gnu", "--blocking-factor=200"],
    ];
    for options in formats {
        let packed = place.dir.path().join("packed.tar");
        let status = Command::new("tar")
            .args(options)
            .args(["--numeric-owner", "--sort=name", "-cf"])
            .args([
                packed.as_os_str(),
                OsStr::new("-C"),
                source.as_os_str(),
                OsStr::new("."),
            ])
            .status();
        let Ok(status) = status else {
            eprintln!("skipped: needs GNU tar");
            return;
        };
        assert!(status.success(), "{options:?}");
        let archive = fs::read(&packed).unwrap();
        let (root, applied) = place.good(&archive);
        assert_eq!(applied.diff_id, Digest::sha256_of(&archive));
        compare(
            &source,
            &root,
            &format!("{options:?}"),
            options.contains(&"--xattrs"),
            options[0],
        );
        if options.contains(&"--sparse") {
            let blocks = fs::metadata(root.join("sparse")).unwrap().blocks();
            assert!(
                blocks * 512 < 1 << 20,
                "{options:?}: holes were filled: {blocks} blocks"
            );
        }
    }
}

fn furnish(root: &Path) {
    let long = "directory-with-a-long-name-".repeat(4);
    fs::create_dir_all(root.join("a").join(&long).join(&long)).unwrap();
    fs::write(root.join("a").join(&long).join(&long).join("file"), "deep").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("block"), [1; 512]).unwrap();
    fs::write(root.join("large"), vec![2; 3_000_001]).unwrap();
    fs::write(root.join("näme with spaces\n and more"), "x").unwrap();
    fs::hard_link(root.join("large"), root.join("z-hard")).unwrap();
    std::os::unix::fs::symlink("large", root.join("soft")).unwrap();
    std::os::unix::fs::symlink("t/".repeat(120), root.join("soft-long")).unwrap();
    std::os::unix::fs::chown(root.join("block"), Some(12345), Some(54321)).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    // More pieces than fit in one header of the old format.
    for n in 0..40u64 {
        sparse.write_all_at(&[n as u8 + 1; 4096], n << 20).unwrap();
    }
    sparse.set_len(64 << 20).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("block"), "user.note", b"value", flags).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), fifo, mode, 0).unwrap();
    let device = rustix::fs::FileType::CharacterDevice;
    let zero = rustix::fs::makedev(1, 5);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("zero"), device, mode, zero).unwrap();
}

fn compare(one: &Path, two: &Path, case: &str, xattrs: bool, format: &str) {
    let list = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(list(one), list(two), "{case}");
    for name in list(one) {
        let (a, b) = (one.join(&name), two.join(&name));
        let (x, y) = (
            fs::symlink_metadata(&a).unwrap(),
            fs::symlink_metadata(&b).unwrap(),
        );
        let look = |m: &fs::Metadata| {
            let nanoseconds = if format == "--format=posix" {
                m.mtime_nsec()
            } else {
                0
            };
            let size = if m.is_dir() { 0 } else { m.size() };
            (
                m.mode(),
                m.uid(),
                m.gid(),
                size,
                m.rdev(),
                m.mtime(),
                nanoseconds,
            )
        };
        assert_eq!(look(&x), look(&y), "{case}: {name:?}");
        if !x.is_dir() {
            assert_eq!(x.nlink(), y.nlink(), "{case}: {name:?}");
        }
        if x.is_dir() {
            compare(&a, &b, case, xattrs, format);
        } else if x.is_symlink() {
            assert_eq!(
                fs::read_link(&a).unwrap(),
                fs::read_link(&b).unwrap(),
                "{case}"
            );
        } else if x.is_file() && x.size() < 1 << 23 {
            assert!(
                fs::read(&a).unwrap() == fs::read(&b).unwrap(),
                "{case}: {name:?}"
            );
        } else if x.is_file() {
            let (a, b) = (fs::File::open(&a).unwrap(), fs::File::open(&b).unwrap());
            for at in (0..41u64).map(|n| n << 20) {
                let mut pieces = [[0u8; 8192]; 2];
                a.read_exact_at(&mut pieces[0], at).unwrap();
                b.read_exact_at(&mut pieces[1], at).unwrap();
                assert!(pieces[0] == pieces[1], "{case}: {name:?} at {at}");
            }
        }
        if xattrs {
            assert_eq!(
                xattr(&a, "user.note"),
                xattr(&b, "user.note"),
                "{case}: {name:?}"
            );
        }
    }
}

#[test]
fn what_was_changed_since_is_told_by_a_comparison_with_the_archive() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let sparse: [(&str, &[u8]); 2] = [
        ("GNU.sparse.map", b"4096,512"),
        ("GNU.sparse.size", b"8192"),
    ];
    let archive = Tar::new()
        .entry(&Entry::dir("d").mode(0o750).owner(1, 2))
        .entry(&Entry::file("d/f", vec![7; 300_000]).mode(0o4755))
        .entry(&Entry::file("d/f", vec![8; 200_000]))
        .entry(&Entry::hard_link("h", "d/f"))
        .entry(&Entry::symlink("l", "d/f").owner(3, 4))
        .entry(&Entry::device("null", 1, 3))
        .entry(&Entry::new(b'6', "pipe"))
        .entry(&Entry::file("d/.wh.gone", ""))
        .entry(&Entry::file("d/.wh..wh..opq", ""))
        .pax(&sparse)
        .entry(&Entry::file("holes", [9; 512]))
        .end();
    let (root, applied) = place.good(&archive);
    let compared = || {
        let dir = fs::File::open(&root).unwrap();
        let mut bytes = 0;
        let found = berth_unpack::compare(&archive[..], dir.as_fd(), &Options::default(), |read| {
            bytes += read;
        })
        .unwrap();
        assert_eq!(found.diff_id, applied.diff_id);
        let names: Vec<String> = found.told.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), found.differences);
        (names, bytes)
    };
    assert_eq!(compared(), (Vec::new(), 200_512));

    let restore = |path: &str| fs::copy(root.join("copy"), root.join(path)).map(drop);
    fs::copy(root.join("d/f"), root.join("copy")).unwrap();
    let mut flipped = fs::read(root.join("d/f")).unwrap();
    flipped[150_000] ^= 1;
    fs::write(root.join("d/f"), &flipped).unwrap();
    assert_eq!(compared().0, ["d/f"]);
    fs::write(root.join("d/f"), &flipped[..100]).unwrap();
    assert_eq!(compared().0, ["d/f"]);
    restore("d/f").unwrap();
    assert!(compared().0.is_empty());

    type Harm = fn(&std::path::Path);
    let harms: [(&str, Harm); 8] = [
        ("h", |root| {
            fs::remove_file(root.join("h")).unwrap();
            fs::write(root.join("h"), [8; 200_000]).unwrap();
        }),
        ("l", |root| {
            fs::remove_file(root.join("l")).unwrap();
            std::os::unix::fs::symlink("elsewhere", root.join("l")).unwrap();
        }),
        ("null", |root| fs::remove_file(root.join("null")).unwrap()),
        ("pipe", |root| {
            fs::remove_file(root.join("pipe")).unwrap();
            fs::create_dir(root.join("pipe")).unwrap();
        }),
        ("d/gone", |root| {
            fs::remove_file(root.join("d/gone")).unwrap()
        }),
        ("holes", |root| {
            let file = fs::OpenOptions::new().write(true).open(root.join("holes"));
            std::os::unix::fs::FileExt::write_at(&file.unwrap(), b"x", 4100)
                .map(drop)
                .unwrap();
        }),
        ("d", |root| {
            rustix::fs::removexattr(root.join("d"), "trusted.overlay.opaque").unwrap();
        }),
        ("d/f", |root| {
            std::os::unix::fs::chown(root.join("d/f"), Some(77), None).unwrap();
        }),
    ];
    let mut expected = std::collections::BTreeSet::new();
    for (name, harm) in harms {
        harm(&root);
        expected.insert(name.to_owned());
        let found: std::collections::BTreeSet<String> = compared().0.into_iter().collect();
        assert_eq!(found, expected, "after {name}");
    }
}
