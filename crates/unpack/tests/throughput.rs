//! How fast a layer is unpacked, against GNU tar on the same file. A measurement, not a test:
//! `cargo test --release -p berth-unpack --test throughput -- --ignored --nocapture`.

// A failed expectation here is a failed measurement.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use berth_unpack::{Decoder, Options, RatioLimit, apply, apply_compressed};

const ROUNDS: usize = 3;

/// A tree like that of an image: many small files, some large ones, all compressible by a half.
fn furnish(root: &Path) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = |length: usize| -> Vec<u8> {
        let mut data = Vec::with_capacity(length + 16);
        while data.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            data.extend_from_slice(&state.to_le_bytes());
            data.extend_from_slice(b"common\0\0");
        }
        data.truncate(length);
        data
    };
    for d in 0..200 {
        let dir = root.join(format!("usr/share/d{d}"));
        fs::create_dir_all(&dir).unwrap();
        for f in 0..30 {
            fs::write(dir.join(format!("f{f}")), bytes(1000 + 700 * f)).unwrap();
        }
    }
    fs::create_dir_all(root.join("usr/lib")).unwrap();
    for n in 0..8 {
        fs::write(root.join(format!("usr/lib/lib{n}.so")), bytes(16 << 20)).unwrap();
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    rustix::fs::sync();
    let start = Instant::now();
    work();
    start.elapsed()
}

#[test]
#[ignore = "a measurement"]
fn a_layer_of_200_mb_against_gnu_tar() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    furnish(&source);
    let layer = dir.path().join("layer.tar.gz");
    let packed = Command::new("tar")
        .arg("-czf")
        .arg(&layer)
        .arg("-C")
        .arg(&source)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    let size = fs::metadata(&layer).unwrap().len();
    // What is unpacked stays until the end: deleting it makes the disk busy with discards.
    let fresh = |name: String| {
        let target = dir.path().join(name);
        fs::create_dir(&target).unwrap();
        target
    };
    for round in 0..ROUNDS {
        let target = fresh(format!("tar-{round}"));
        let tar = timed(|| {
            let done = Command::new("tar")
                .arg("-xzf")
                .arg(&layer)
                .arg("-C")
                .arg(&target)
                .status();
            assert!(done.unwrap().success());
        });
        let target = fresh(format!("threads-{round}"));
        let mut unpacked = 0;
        let threads = timed(|| {
            let root = fs::File::open(&target).unwrap();
            let layer = fs::File::open(&layer).unwrap();
            let applied = apply_compressed(layer, root.as_fd(), &Options::default()).unwrap();
            unpacked = applied.stream_bytes;
        });
        let target = fresh(format!("one-{round}"));
        let one = timed(|| {
            let root = fs::File::open(&target).unwrap();
            let layer = fs::File::open(&layer).unwrap();
            let decoder = Decoder::new(layer, RatioLimit::default()).unwrap();
            apply(decoder, root.as_fd(), &Options::default()).unwrap();
        });
        let inflate = timed(|| {
            let layer = fs::File::open(&layer).unwrap();
            let mut decoder = Decoder::new(layer, RatioLimit::default()).unwrap();
            std::io::copy(&mut decoder, &mut std::io::sink()).unwrap();
        });
        let rate = |time: Duration| unpacked as f64 / 1e6 / time.as_secs_f64();
        eprintln!(
            "round {round}: {size} -> {unpacked} bytes; tar xzf {tar:.2?} ({:.0} MB/s), \
             two threads {threads:.2?} ({:.0} MB/s, {:.2} of tar), one thread {one:.2?} \
             ({:.0} MB/s, {:.2} of tar), inflate alone {inflate:.2?}",
            rate(tar),
            rate(threads),
            threads.as_secs_f64() / tar.as_secs_f64(),
            rate(one),
            one.as_secs_f64() / tar.as_secs_f64(),
        );
    }
}
