//! The metadata of an earlier release, kept as it was left by a daemon that was killed: one pod with
//! two containers (one record larger than a value, in a file of its own) and their image. What was
//! committed last is in the journal alone.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::PodSandboxState;
use serde_json::Value;

use super::session::Session;
use crate::command::{run, stdout};
use crate::place::Place;
use crate::workspace;

const ARCHIVE: &str = "integration/metadata/schema-1.tar.xz";
const IMAGE: &str = "127.0.0.1:5077/crew/busybox:one";

/// All of it is read, and what is whole is taken over as after a reboot.
pub fn is_taken_over() -> Result<()> {
    let place = Place::new()?;
    fs::create_dir_all(place.root()).context("making the root")?;
    run(Command::new("tar")
        .arg("-C")
        .arg(place.root())
        .arg("-xJf")
        .arg(workspace::root().join(ARCHIVE)))?;
    let exported = exported(&place)?;
    let mut counts = BTreeMap::new();
    for line in exported.lines() {
        let record: Value = serde_json::from_str(line).context("reading a record")?;
        if let Some(table) = record["table"].as_str() {
            *counts.entry(table.to_owned()).or_insert(0) += 1;
        }
    }
    let counts: Vec<(&str, i32)> = counts
        .iter()
        .map(|(table, count)| (&**table, *count))
        .collect();
    let expected = [
        ("containers", 2),
        ("images", 1),
        ("pods", 1),
        ("references", 2),
    ];
    ensure!(counts == expected, "{counts:?} records are read");
    ensure!(
        exported.contains(&"x".repeat(9000)),
        "the large record is not whole"
    );
    let mut session = Session::begin_in(place, "node-old-metadata", "")?;

    let pods = session.cri.pods().context("ListPodSandbox")?;
    let [pod] = pods.as_slice() else {
        anyhow::bail!("{} pods are listed", pods.len());
    };
    let named = pod.metadata.clone().unwrap_or_default();
    ensure!(
        (named.name.as_str(), named.uid.as_str(), named.attempt) == ("old", "old-uid", 1),
        "the pod is {named:?}"
    );
    ensure!(
        pod.labels.get("app").is_some_and(|app| app == "old"),
        "{pod:?}"
    );
    ensure!(pod.state() == PodSandboxState::SandboxNotready, "{pod:?}");

    // Layers are not in the archive: what has none is not offered.
    let containers = session.cri.containers().context("ListContainers")?;
    ensure!(containers.is_empty(), "{containers:?}");
    let images = session.cri.images().context("ListImages")?;
    let known = images
        .iter()
        .any(|image| image.repo_tags.iter().any(|tag| tag == IMAGE));
    ensure!(!known, "an image without layers is listed");
    let pod = pod.id.clone();
    session.remove_pod(&pod)?;
    session.end()
}

/// All records as text, of metadata that no daemon of today has seen.
fn exported(place: &Place) -> Result<String> {
    stdout(
        Command::new(workspace::artefacts().join("berthd"))
            .args(["export", "-", "--root"])
            .arg(place.root()),
    )
}
