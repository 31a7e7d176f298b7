//! A daemon whose database or records are destroyed while it is away.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::inventory::Inventory;
use super::restart::{self, Running};
use super::session::Session;
use crate::workspace;

const PODS: usize = 3;
const WAITING: &str = "while :; do sleep 1; done";
const NONSENSE: &str = "{\"id\": \"this is no rec";

/// It is rebuilt at the start: pods and images are those of before.
pub fn is_mended(session: &mut Session) -> Result<()> {
    let before = Inventory::take(session)?;
    let crew = restart::crew(session, PODS, WAITING)?;
    let images = names(session)?;

    session.kill_daemon()?;
    let database = session.place.root().join("meta/sled/db");
    fs::write(&database, "this is no database").context("destroying the database")?;
    checked(session)?;
    session.start_daemon()?;

    restart::all_listed(session, &crew)?;
    for Running { container, .. } in &crew {
        let status = session.cri.status(container).context("ContainerStatus")?;
        ensure!(status.exit_code == 0, "container {container} has ended");
    }
    for running in &crew {
        restart::goes_on(session, running)?;
    }
    let found = names(session)?;
    ensure!(found == images, "images {found:?} instead of {images:?}");
    for running in &crew {
        session.tear_down(&running.pod, &running.container)?;
    }
    before.restored(session)
}

/// The record of one pod, of another pod's container, and of the third pod and its container: each is
/// put aside, that of the store takes its place, and whatever runs goes on.
pub fn records_are_set_aside(session: &mut Session) -> Result<()> {
    let before = Inventory::take(session)?;
    let crew = restart::crew(session, PODS, WAITING)?;
    let [first, second, third] = crew.as_slice() else {
        anyhow::bail!("{} pods were started", crew.len());
    };
    let state = session.place.state();
    let of_pod = |id: &str| state.join("pods").join(id).join("pod.json");
    let of_container = |id: &str| state.join("containers").join(id).join("container.json");
    let destroyed = [
        (of_pod(&first.pod), &first.pod),
        (of_container(&second.container), &second.container),
        (of_pod(&third.pod), &third.pod),
        (of_container(&third.container), &third.container),
    ];

    session.kill_daemon()?;
    for (record, _) in &destroyed {
        ensure!(record.exists(), "there is no {}", record.display());
        fs::write(record, NONSENSE).context("destroying a record")?;
    }
    session.start_daemon()?;

    let log = fs::read_to_string(session.daemon_log()).context("reading the daemon's log")?;
    for (record, id) in &destroyed {
        was_set_aside(record, id)?;
        let path = record.display().to_string();
        let told = |line: &str| line.contains("record set aside") && line.contains(&path);
        ensure!(log.lines().any(told), "the log does not tell of {path}");
    }
    restart::go_on(session, &crew)?;
    // What took their place serves the next one.
    session.kill_daemon()?;
    session.start_daemon()?;
    restart::go_on(session, &crew)?;
    for running in &crew {
        session.tear_down(&running.pod, &running.container)?;
    }
    before.restored(session)
}

/// The nonsense is beside a record that says whose it is.
fn was_set_aside(record: &Path, id: &str) -> Result<()> {
    let aside = record.with_extension("json.unreadable");
    let kept = fs::read_to_string(&aside).with_context(|| format!("reading {aside:?}"))?;
    ensure!(kept == NONSENSE, "{} has {kept:?}", aside.display());
    let text = fs::read(record).with_context(|| format!("reading {record:?}"))?;
    let anew: Value = serde_json::from_slice(&text).context("reading the record anew")?;
    ensure!(anew["id"] == id, "the record is of {}", anew["id"]);
    Ok(())
}

/// `berthd check` says what is wrong and ends with 1.
fn checked(session: &Session) -> Result<()> {
    let output = Command::new(workspace::artefacts().join("berthd"))
        .arg("check")
        .arg("--root")
        .arg(session.place.root())
        .output()
        .context("running berthd check")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(1) && said.contains("damaged"),
        "berthd check ended with {} and said {said:?}",
        output.status
    );
    Ok(())
}

/// Ids and names of all images.
fn names(session: &mut Session) -> Result<Vec<(String, Vec<String>)>> {
    let images = session.cri.images().context("ListImages")?;
    let mut names: Vec<_> = images
        .into_iter()
        .map(|image| (image.id, image.repo_tags))
        .collect();
    names.sort();
    Ok(names)
}
