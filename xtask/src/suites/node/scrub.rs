//! Image data that goes bad on disk, under a daemon that reads everything again all the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_testkit::image::Recipe;
use berth_testkit::registry::Registry;

use super::session::Session;
use crate::command::retry;
use crate::cri;
use crate::suites::fixtures::marker;

const SETTINGS: &str = "[scrub]\nevery-secs = 1\nbytes-per-sec = 0\n";
const SOON: Duration = Duration::from_secs(60);

/// A byte of a layer and a byte of a blob: the one is made good at once, the other by the next
/// pull, which fetches nothing else. What runs goes on.
pub fn is_made_good() -> Result<()> {
    let mut session = Session::begin_with("node-scrub", SETTINGS)?;
    let registry = session.cri.beside(Registry::start());
    let registry = registry.context("starting a registry that tells what it is asked")?;
    let layers = [session.shell()?, marker("first")?, marker("bad")?];
    let recipe = layers.iter().cloned().fold(Recipe::new(), Recipe::layer);
    let image = recipe.env(&["PATH=/usr/bin:/bin"]).build()?;
    registry.add_blob(image.config.clone());
    for layer in &layers {
        registry.add_blob(layer.bytes.clone());
    }
    let media_type = image.manifest_media_type;
    registry.add_manifest("scrub", Some("one"), media_type, image.manifest);
    let name = format!("{}/scrub:one", registry.host());
    session.cri.pull(&name).context("PullImage")?;

    let pod_config = session.pod("scrubbed");
    let mut config = session.container("main", &["sleep", "1000"]);
    config.image = Some(cri::image(&name));
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let container = session.cri.create(&pod, &pod_config, &config);
    let container = container.context("CreateContainer")?;
    session.cri.start(&container).context("StartContainer")?;

    let file = file_with(&session.place.root(), "bad\n")?;
    fs::write(&file, "rot\n").context("damaging a layer")?;
    retry(SOON, || {
        // The layer may be between its old place and its new one.
        let now = fs::read_to_string(&file).unwrap_or_default();
        ensure!(now == "bad\n", "the layer has {now:?}");
        Ok(())
    })?;

    let digest = &layers[1].digest;
    let blob = session.place.root().join("content/blobs/sha256");
    let blob = blob.join(digest.hex());
    let mut bytes = fs::read(&blob).context("reading a blob")?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&blob, bytes).context("damaging a blob")?;
    retry(SOON, || {
        ensure!(!blob.exists(), "the bad blob is still there");
        Ok(())
    })?;
    registry.take_requests();
    session.cri.pull(&name).context("PullImage")?;
    let asked: Vec<String> = registry
        .take_requests()
        .into_iter()
        .filter_map(|seen| seen.path.rsplit_once("/blobs/").map(|(_, d)| d.to_owned()))
        .collect();
    ensure!(
        asked == [digest.to_string()],
        "blobs {asked:?} were fetched"
    );
    ensure!(blob.exists(), "the blob is not there again");

    let said = session.cri.exec(&container, &["cat", "/etc/marker"]);
    let said = said.context("ExecSync")?;
    ensure!(said.exit_code == 0, "what ran does not go on");
    session.tear_down(&pod, &container)?;
    session.end()
}

/// The file of an unpacked layer that has this text as its marker.
fn file_with(root: &Path, text: &str) -> Result<PathBuf> {
    let layers = fs::read_dir(root.join("snapshots/layers")).context("listing layers")?;
    let files = layers
        .flatten()
        .map(|entry| entry.path().join("fs/etc/marker"));
    let mut found = files.filter(|file| fs::read_to_string(file).is_ok_and(|is| is == text));
    found.next().context("no layer has the marker")
}
