//! Archives from honest and hostile ones, by chance.

// A failed expectation here is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "archive/mod.rs"]
mod archive;

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;

use archive::*;
use berth_testkit::hostile;
use berth_testkit::mutate::Mutants;
use berth_unpack::{Limits, Options, RatioLimit, apply_compressed, compare};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/layer");

fn options() -> Options {
    Options {
        limits: Limits {
            stream_bytes: 4 << 20,
            entries: 2000,
            file_bytes: 1 << 20,
            ..Limits::default()
        },
        ratio: RatioLimit {
            max_ratio: 50,
            exempt_bytes: 1 << 20,
        },
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let honest = Tar::new()
        .pax(&[("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b")])
        .entry(&Entry::dir("d").mode(0o750).owner(1, 2))
        .entry(&Entry::file("d/f", [7; 3000]))
        .entry(&Entry::symlink("l".repeat(150), "d/f"))
        .entry(&Entry::hard_link("h", "d/f"))
        .entry(&Entry::device("null", 1, 3))
        .entry(&Entry::file("d/.wh.gone", ""))
        .entry(&Entry::file("d/.wh..wh..opq", ""))
        .end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&honest).unwrap();
    let packed = [
        gzip.finish().unwrap(),
        zstd::encode_all(&honest[..], 1).unwrap(),
    ];
    let doubtful = hostile::doubtful().into_iter().map(|(_, bytes, _)| bytes);
    let short = doubtful.filter(|bytes| bytes.len() < 16 << 10);
    [honest].into_iter().chain(packed).chain(short).collect()
}

/// Mutants of headers would all end at their checksum.
fn sealed(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        let block: &mut [u8; 512] = block.try_into().unwrap();
        if block[257..262] == *b"ustar" {
            seal(block);
        }
    }
    bytes
}

#[test]
fn whatever_is_taken_for_a_layer_gives_the_same_tree_and_stays_in_its_place() {
    let Some(mut place) = Place::new() else {
        return;
    };
    // In memory: what is tried is not the disk.
    place.dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let beside = place.dir.path().join("beside");
    fs::write(&beside, "untouched").unwrap();
    let place = std::cell::RefCell::new(place);
    Mutants::of(CORPUS)
        .and(seeds())
        .words(&[
            "../",
            "/",
            ".wh.",
            ".wh..wh..opq",
            "GNU.sparse.size",
            "path=",
            "ustar",
        ])
        .show(|input| {
            for bytes in [input.to_vec(), sealed(input)] {
                let target = place.borrow_mut().target();
                let dir = fs::File::open(&target).unwrap();
                let applied = apply_compressed(&bytes[..], dir.as_fd(), &options());
                if let Ok(applied) = applied {
                    let compared = compare(&bytes[..], dir.as_fd(), &options(), |_| {});
                    assert_eq!(compared.unwrap().diff_id, applied.diff_id);
                }
                let mut names = fs::read_dir(place.borrow().dir.path()).unwrap();
                assert!(names.all(|entry| {
                    let path = entry.unwrap().path();
                    path == target || path == beside
                }));
                assert_eq!(fs::read(&beside).unwrap(), b"untouched");
                fs::remove_dir_all(target).unwrap();
            }
        });
}
