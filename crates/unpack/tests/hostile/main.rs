//! Layers made to harm: none may touch what is outside the target, and none may be half-understood.

// A failed expectation here is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../archive/mod.rs"]
mod archive;
mod canary;
mod escapes;
mod limits;

use std::fs;

use archive::*;
use berth_unpack::Options;
use canary::*;

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_doubtful_archive_is_refused_with_a_reason() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let canary = Canary::new(&place);
    for (case, archive, reason) in berth_testkit::hostile::doubtful() {
        let (_, outcome) = place.unpack(&archive, &Options::default());
        canary.check(case);
        let Err(error) = outcome else {
            panic!("{case} was accepted")
        };
        let told = error.to_string();
        assert!(
            told.contains(reason),
            "{case}: {told:?} does not say {reason:?}"
        );
    }
}

#[test]
fn cutting_an_archive_anywhere_neither_panics_nor_invents() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let whole = Tar::new()
        .pax(&[("mtime", b"1.5")])
        .entry(&Entry::file("a", [1; 700]))
        .entry(&Entry::symlink("l".repeat(150), "t".repeat(150)))
        .entry(&Entry::dir("d"))
        .end();
    for length in (0..whole.len()).step_by(97) {
        let (target, outcome) = place.unpack(&whole[..length], &Options::default());
        if outcome.is_ok() {
            assert_eq!(length % 512, 0, "cut at {length}");
        }
        fs::remove_dir_all(target).unwrap();
    }
}
