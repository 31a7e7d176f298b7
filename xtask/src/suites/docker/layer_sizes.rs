//! `--storage-opt size=…` where the file system cannot hold a container to it: whoever asks is told so
//! before anything is made. What happens where it can is seen in the vm suite.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::client::Docker;
use super::session::{IMAGE, Session};
use super::{Step, contains, same};
use crate::command::stdout;
use crate::daemon::Daemon;
use crate::place::Place;
use crate::workspace;

pub const STEPS: &[(&str, Step)] = &[
    ("info tells what the layers lie on", info),
    (
        "a size that nothing would keep to is refused with what it takes",
        refused,
    ),
    ("options that mean nothing are refused by their names", odd),
    ("a size of 0 is no limit, and shown as it came", none),
    (
        "a daemon that could not keep to its default does not start",
        default,
    ),
];

fn status(session: &Session, name: &str) -> Result<String> {
    let info = session
        .docker
        .json(&["info", "--format", "{{json .DriverStatus}}"])?;
    let pairs = info.as_array().context("no list")?.iter();
    let mut found = pairs.filter(|pair| pair[0] == name);
    let pair = found
        .next()
        .with_context(|| format!("no {name:?} in {info}"))?;
    Ok(pair[1].as_str().unwrap_or_default().to_owned())
}

fn info(session: &mut Session) -> Result<()> {
    let told = stdout(
        Command::new("stat")
            .args(["-f", "-c", "%T"])
            .arg(session.place.root()),
    )?;
    let expected = match told.trim() {
        "ext2/ext3" => "extfs",
        other => other,
    };
    same(
        "file system",
        status(session, "Backing Filesystem")?.as_str(),
        expected,
    )?;
    same(
        "d_type",
        status(session, "Supports d_type")?.as_str(),
        "true",
    )?;
    same(
        "overlay",
        status(session, "Native Overlay Diff")?.as_str(),
        "true",
    )?;
    same(
        "metacopy",
        status(session, "Using metacopy")?.as_str(),
        "false",
    )
}

/// False where the file system of the suite has them.
fn lacks_quotas(session: &Session) -> Result<bool> {
    let told = status(session, "Project Quotas")?;
    ensure!(told == "true" || told == "false", "they are {told:?}");
    Ok(told == "false")
}

fn refused(session: &mut Session) -> Result<()> {
    if !lacks_quotas(session)? {
        println!("  note    this file system has project quotas: nothing is refused");
        return Ok(());
    }
    let before = held(session)?;
    let create = ["create", "--storage-opt", "size=1G", IMAGE, "true"];
    told(&session.docker.refusal(&create)?)?;
    let berth = Docker {
        program: workspace::artefacts().join("berth"),
        socket: session.docker.socket.clone(),
        config: session.docker.config.clone(),
    };
    let run = ["run", "--rm", "--storage-opt", "size=1G", IMAGE, "true"];
    told(&berth.refusal(&run)?)?;
    let file = session.place.scratch().join("limited.yaml");
    let text = format!(
        "name: limited\nservices:\n  one:\n    image: {IMAGE}\n    network_mode: none\n    \
         storage_opt:\n      size: 1G\n"
    );
    fs::write(&file, text).context("writing a compose file")?;
    let file = file.display().to_string();
    let up = ["compose", "-f", &file, "up", "-d"];
    told(&berth.refusal(&up)?)?;
    berth.text(&["compose", "-f", &file, "down"])?;
    same("what is held", held(session)?, before)
}

/// The words that people look for, where it is, and what to do.
fn told(said: &str) -> Result<()> {
    for word in [
        "--storage-opt",
        "'pquota' mount option",
        "snapshots",
        "prjquota",
    ] {
        contains("the refusal", said, word)?;
    }
    Ok(())
}

/// Containers and layers.
fn held(session: &Session) -> Result<(Vec<String>, usize)> {
    let containers = session.docker.lines(&["ps", "-aq"])?;
    let layers = session.place.root().join("snapshots/active");
    let layers = fs::read_dir(&layers).context("listing the layers")?.count();
    Ok((containers, layers))
}

fn odd(session: &mut Session) -> Result<()> {
    for (option, said) in [
        ("inodes=7", "\"inodes\""),
        ("size=much", "\"much\""),
        ("size=-1", "\"-1\""),
    ] {
        let create = ["create", "--storage-opt", option, IMAGE, "true"];
        contains(option, &session.docker.refusal(&create)?, said)?;
    }
    Ok(())
}

fn none(session: &mut Session) -> Result<()> {
    let create = [
        "create",
        "--name",
        "lifted",
        "--storage-opt",
        "size=0",
        IMAGE,
        "true",
    ];
    session.docker.text(&create)?;
    let format = "{{json .HostConfig.StorageOpt}}";
    let shown: Value = session.docker.json(&["inspect", "-f", format, "lifted"])?;
    session.docker.text(&["rm", "lifted"])?;
    same("the option", shown, serde_json::json!({ "size": "0" }))
}

/// It leaves nothing: its place is as empty as a first start finds it.
fn default(session: &mut Session) -> Result<()> {
    if !lacks_quotas(session)? {
        println!("  note    this file system has project quotas: nothing is refused");
        return Ok(());
    }
    let place = Place::new()?;
    place.configure("[snapshots]\nwritable-max-bytes = 1048576\n")?;
    let log = place.scratch().join("log");
    ensure!(Daemon::start(&place, &log).is_err(), "it was started");
    let said = fs::read_to_string(&log).context("reading the daemon's log")?;
    for word in ["snapshots.writable-max-bytes", "project quotas", "prjquota"] {
        contains("the log", &said, word)?;
    }
    ensure!(!Path::new(&place.socket()).exists(), "a socket is left");
    Ok(())
}
