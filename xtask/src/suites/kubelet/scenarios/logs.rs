//! Logs that the kubelet rotates.

use std::fs::{self, File};
use std::io::Read;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::suites::kubelet::manifest::{STAY, container, pod};
use crate::suites::kubelet::session::Session;

const LINES: usize = 800;

/// Some 100 KiB within several looks of the kubelet, which come every three seconds.
pub fn talking(session: &Session) -> Value {
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do echo $i {}; i=$((i+1)); \
         [ $((i % 50)) = 0 ] && sleep 0.5; done; {STAY}",
        "x".repeat(80)
    );
    pod(
        session,
        "talking",
        json!({ "containers": [container(session, "main", &script, json!({}))] }),
    )
}

/// All lines in order, over at least one rotated file.
pub fn are_whole(session: &mut Session) -> Result<()> {
    let uid = session.ready("talking")?.uid().to_owned();
    let name = format!("default_talking-{}_{uid}/main", super::super::process::NODE);
    let directory = session.place.pod_logs().join(name);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .with_context(|| format!("listing {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    // Rotated files are named by the time; the current one is the shortest name and the last.
    files.sort();
    ensure!(files.len() >= 2, "nothing is rotated: {files:?}");
    files.rotate_left(1);
    let mut text = String::new();
    for file in &files {
        let opened = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        let read = match file.extension().is_some_and(|ending| ending == "gz") {
            true => GzDecoder::new(opened).read_to_string(&mut text),
            false => { opened }.read_to_string(&mut text),
        };
        read.with_context(|| format!("reading {}", file.display()))?;
    }
    let numbers: Vec<usize> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(3)?.parse().ok())
        .collect();
    ensure!(
        numbers.iter().copied().eq(0..LINES),
        "{} lines in {files:?}",
        numbers.len()
    );
    Ok(())
}
