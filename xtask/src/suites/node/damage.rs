//! A daemon whose database is destroyed while it is away.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::inventory::Inventory;
use super::restart::{self, Running};
use super::session::Session;
use crate::workspace;

const PODS: usize = 3;

/// It is rebuilt at the start: pods and images are those of before.
pub fn is_mended(session: &mut Session) -> Result<()> {
    let before = Inventory::take(session)?;
    let scratch = session.place.scratch();
    let mut crew = Vec::new();
    for number in 0..PODS {
        let command = "while :; do sleep 1; done";
        crew.push(restart::launch(session, number, command, &scratch)?);
    }
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
