//! What a layer may ask for, and that work stays in proportion.

use super::archive::*;
use super::canary::*;
use berth_unpack::{Error, Limits, Options};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

#[test]
fn limits_hold() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let many = Tar::of((0..50).map(|n| Entry::file(format!("f{n}"), "1"))).end();
    let implied = Tar::of([Entry::file("p/".repeat(60) + "x", "1")]).end();
    let dirs = Tar::of((0..50).map(|n| Entry::dir(format!("directory-{n}")))).end();
    let whiteouts = Tar::of((0..50).map(|n| Entry::file(format!(".wh.{n}"), ""))).end();
    let large = Tar::of([Entry::file("f", vec![0; 9000])]).end();
    let names: Vec<String> = (0..9).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"1"[..])).collect();
    let attributes = Tar::new().pax(&records).entry(&Entry::file("f", "")).end();
    let limits = Limits::default;
    let cases = [
        (
            &many,
            Limits {
                entries: 49,
                ..limits()
            },
            "49 entries",
        ),
        (
            &whiteouts,
            Limits {
                entries: 49,
                ..limits()
            },
            "49 entries",
        ),
        (
            &implied,
            Limits {
                entries: 49,
                ..limits()
            },
            "50 inodes",
        ),
        (
            &dirs,
            Limits {
                directory_name_bytes: 300,
                ..limits()
            },
            "directory names",
        ),
        (
            &large,
            Limits {
                stream_bytes: 9000,
                ..limits()
            },
            "larger than 9000",
        ),
        (
            &large,
            Limits {
                file_bytes: 8999,
                ..limits()
            },
            "8999 bytes of one file",
        ),
        (
            &attributes,
            Limits {
                xattrs: 8,
                ..limits()
            },
            "8 extended attributes",
        ),
        (
            &implied,
            Limits {
                depth: 60,
                ..limits()
            },
            "60 path components",
        ),
    ];
    for (archive, limits, told) in cases {
        let options = Options {
            limits,
            ..Options::default()
        };
        let (_, outcome) = place.unpack(archive, &options);
        let error = outcome.unwrap_err();
        assert!(
            error.to_string().contains(told),
            "{error} does not say {told:?}"
        );
        assert!(error.is_bad_archive());
    }
}

#[test]
fn a_deep_detour_through_links_ends() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let canary = Canary::new(&place);
    // Each link leads to a deep path that begins with the next link.
    let links =
        (0..60).map(|n| Entry::symlink(format!("l{n}"), format!("l{}/{}", n + 1, "x/".repeat(40))));
    let archive = Tar::of(links).entry(&Entry::file("l0/f", "1")).end();
    let (_, outcome) = place.unpack(&archive, &Options::default());
    assert!(matches!(outcome, Err(Error::Refused { .. })), "{outcome:?}");
    canary.check("a deep detour");
}

#[test]
fn a_hundred_thousand_whiteouts_are_linear_and_counted() {
    let Some(mut place) = Place::new() else {
        return;
    };
    const COUNT: u64 = 100_000;
    // In memory: what is measured is not the disk.
    place.dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = Tar::of((0..COUNT).map(|n| Entry::file(format!(".wh.{n}"), ""))).end();
    let (target, applied) = place.good(&archive);
    assert_eq!(
        (applied.entries, applied.inodes, applied.bytes),
        (COUNT, COUNT + 1, 0)
    );
    let one = fs::symlink_metadata(target.join("77")).unwrap();
    assert!(one.file_type().is_char_device() && one.rdev() == 0);
}
