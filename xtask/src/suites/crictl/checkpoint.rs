//! A container that is written down, and goes on in another pod.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_testkit::image::{Layer, Recipe};
use serde_json::json;

use super::life::{container_request, create_container};
use super::session::Session;
use super::{contains, same};
use crate::command::run;
use crate::suites::fixtures::pack;

/// Counts in memory, into its log and into a file of its own; ends with 9 when it is told to.
const COUNTER: &str = "rm -f /etc/marker; echo kept > /root/kept; i=0; \
                       while [ ! -e /root/stop ]; do i=$((i+1)); echo $i; sleep 0.1; done; exit 9";
const SOON: Duration = Duration::from_secs(20);

pub fn checkpoint_and_restore(session: &mut Session) -> Result<()> {
    let request = container_request(session, "counting", &["sh", "-c", COUNTER]);
    let first = create_container(session, &request)?;
    session.crictl.text(&["start", &first])?;
    let before = counted(session, &first, 3)?;
    let archive = session.place.scratch().join("counting.tar");
    let archive = archive
        .to_str()
        .context("a path that is no text")?
        .to_owned();
    let export = format!("--export={archive}");
    session.crictl.text(&["checkpoint", &export, &first])?;
    // It goes on, until it is removed.
    counted(session, &first, before)?;
    session.crictl.text(&["rm", "--force", &first])?;

    restored(session, "again", &archive, before)?;
    let image = publish(session, Path::new(&archive))?;
    session.crictl.text(&["pull", &image])?;
    restored(session, "carried", &image, before)?;
    session.crictl.text(&["rmi", &image])?;

    refused(session, &archive)?;
    fs::remove_file(&archive).context("removing an archive")
}

/// A container from `image`, which counts on from `before` and is what it was.
fn restored(session: &mut Session, name: &str, image: &str, before: u64) -> Result<()> {
    let mut request = container_request(session, name, &["sh", "-c", COUNTER]);
    request["image"] = json!({ "image": image, "user_specified_image": image });
    let second = create_container(session, &request)?;
    session.crictl.text(&["start", &second])?;
    let after = counted(session, &second, before)?;
    ensure!(
        after < before + 1000,
        "it counts anew: {after} after {before}"
    );
    let logs = session.crictl.text(&["logs", &second])?;
    let start: Option<u64> = logs
        .lines()
        .next()
        .and_then(|line| line.trim().parse().ok());
    ensure!(start >= Some(before), "its log begins with {start:?}");
    let look = "cat /root/kept; ls /etc/marker 2>/dev/null | wc -l";
    let said = session
        .crictl
        .text(&["exec", "-s", &second, "sh", "-c", look])?;
    same(
        "exec",
        said.split_whitespace().collect::<Vec<_>>(),
        vec!["kept", "0"],
    )?;
    session
        .crictl
        .text(&["exec", "-s", &second, "touch", "/root/stop"])?;
    let code = exit_code(session, &second)?;
    ensure!(code == 9, "it ended with {code}");
    session.crictl.text(&["rm", "--force", &second]).map(drop)
}

/// An image that carries the archive, as tools make one for registries; answers with its name.
fn publish(session: &Session, archive: &Path) -> Result<String> {
    let unpacked = tempfile::tempdir().context("making a place for an archive")?;
    run(Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(unpacked.path()))?;
    let mut layer = Layer::new();
    for directory in ["", "checkpoint"] {
        let listed = fs::read_dir(unpacked.path().join(directory));
        for entry in listed.context("listing an archive")?.flatten() {
            if entry.path().is_file() {
                let name = entry.file_name();
                let name = Path::new("/").join(directory).join(name);
                let content = fs::read(entry.path()).context("reading a member")?;
                layer = layer.file(&name.to_string_lossy(), 0o600, content);
            }
        }
    }
    let image = Recipe::new()
        .layer(pack(&layer)?)
        .annotation("org.criu.checkpoint.container.name", "counting")
        .build()?;
    let repository = "crew/checkpoint";
    session
        .registry
        .remote()
        .push(&image, repository, &["one"])?;
    Ok(format!("{}/{repository}:one", session.registry.address()))
}

/// Requests that the archive cannot follow, and archives that are none.
fn refused(session: &mut Session, archive: &str) -> Result<()> {
    let mut lesser = container_request(session, "lesser", &["sh", "-c", COUNTER]);
    lesser["image"] = json!({ "image": archive });
    let none = json!({ "drop_capabilities": ["ALL"] });
    lesser["linux"]["security_context"]["capabilities"] = none;
    let container = create_container(session, &lesser)?;
    let said = session.crictl.refusal(&["start", &container])?;
    contains("crictl start", &said, "capabilities")?;
    session.crictl.text(&["rm", "--force", &container])?;

    let broken = Path::new(archive).with_file_name("broken.tar");
    fs::write(&broken, vec![7; 4096]).context("writing what is no archive")?;
    for path in [broken.as_path(), Path::new("/missing/archive.tar")] {
        let mut request = container_request(session, "none", &["true"]);
        request["image"] = json!({ "image": path });
        let error = create_container(session, &request);
        ensure!(
            error.is_err(),
            "{} was taken for a checkpoint",
            path.display()
        );
    }
    fs::remove_file(&broken).context("removing what is no archive")
}

/// The last number in the log once it is more than `least`.
fn counted(session: &mut Session, container: &str, least: u64) -> Result<u64> {
    let deadline = Instant::now() + SOON;
    loop {
        let logs = session.crictl.text(&["logs", "--tail", "1", container])?;
        match logs.trim().parse() {
            Ok(count) if count > least => return Ok(count),
            _ if Instant::now() > deadline => bail!("{container} does not count on: {logs:?}"),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn exit_code(session: &mut Session, container: &str) -> Result<i64> {
    let deadline = Instant::now() + SOON;
    loop {
        let shown = session.crictl.json(&["inspect", container])?;
        let status = &shown["status"];
        if status["state"] == "CONTAINER_EXITED" {
            return status["exitCode"].as_i64().context("no exit code");
        }
        ensure!(Instant::now() < deadline, "{container} does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
}
