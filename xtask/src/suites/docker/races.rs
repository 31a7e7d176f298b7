//! Steps in which files are copied into a container that others work at, and into files that the
//! runtime mounts.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::files::{scratch, text};
use super::session::{IMAGE, Session};
use super::{Step, docker, same};
use crate::command::retry;

pub const STEPS: &[(&str, Step)] = &[
    (
        "cp is not failed by what a container does at the same place",
        at_the_same_place,
    ),
    (
        "cp into a container that ends or goes is never an error of ours",
        while_it_goes,
    ),
    ("cp goes into the files that the runtime mounts", mounted),
];

/// What curl has to send.
fn packed(session: &Session) -> Result<String> {
    let tree = scratch(session, "raced");
    fs::create_dir_all(tree.join("d")).context("making a tree")?;
    fs::write(tree.join("d/file"), "new").context("making a tree")?;
    let archive = scratch(session, "raced.tar");
    crate::command::run(
        std::process::Command::new("tar")
            .arg("-C")
            .arg(&tree)
            .args(["-cf", &text(&archive), "d"]),
    )?;
    Ok(format!("@{}", text(&archive)))
}

fn at_the_same_place(session: &mut Session) -> Result<()> {
    let data = packed(session)?;
    let busy = "mkdir /w; while :; do mv /w/d /w/e; rm -rf /w/e; mkdir -p /w/d/file; done 2>&-";
    docker(
        session,
        &["run", "-d", "--name", "busy", IMAGE, "sh", "-c", busy],
    )?;
    retry(Duration::from_secs(10), || {
        docker(session, &["exec", "busy", "ls", "/w"])
    })?;
    for _ in 0..60 {
        let put = session.docker.request(
            "PUT",
            "/containers/busy/archive?path=/w",
            &["--data-binary", &data],
        )?;
        same(&put.body, put.status, 200)?;
    }
    docker(session, &["rm", "-f", "busy"]).map(drop)
}

fn while_it_goes(session: &mut Session) -> Result<()> {
    let data = packed(session)?;
    for round in 0..6 {
        docker(
            session,
            &["run", "-d", "--name", "goes", IMAGE, "sleep", "1000"],
        )?;
        let action: &[&str] = match round % 2 {
            0 => &["rm", "-f", "goes"],
            _ => &["kill", "goes"],
        };
        let mut other = session.docker.command(action);
        let mut other = other.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        while other.try_wait()?.is_none() {
            let path = "/containers/goes/archive?path=/";
            let put = session
                .docker
                .request("PUT", path, &["--data-binary", &data])?;
            ensure!(
                [200, 404, 409].contains(&put.status),
                "{}: {}",
                put.status,
                put.body
            );
        }
        if round % 2 == 1 {
            docker(session, &["rm", "goes"])?;
        }
    }
    Ok(())
}

fn mounted(session: &mut Session) -> Result<()> {
    let file = scratch(session, "put");
    fs::write(&file, "198.51.100.7 put\n").context("writing a file")?;
    let file = text(&file);
    docker(
        session,
        &["run", "-d", "--name", "box", IMAGE, "sleep", "1000"],
    )?;
    for place in ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"] {
        let target = format!("box:{place}");
        docker(session, &["cp", &file, &target])?;
        let seen = docker(session, &["exec", "box", "cat", place])?;
        same(place, seen.as_str(), "198.51.100.7 put")?;
        let mounts = docker(
            session,
            &["exec", "box", "grep", "-c", place, "/proc/mounts"],
        )?;
        same("it is mounted still", mounts.as_str(), "1")?;
    }
    docker(session, &["stop", "-t", "0", "box"])?;
    docker(session, &["cp", &file, "box:/etc/hosts"])?;
    let back = scratch(session, "back");
    docker(session, &["cp", "box:/etc/hosts", &text(&back)])?;
    let back = fs::read_to_string(back).context("reading what came back")?;
    same("at rest", back.as_str(), "198.51.100.7 put\n")?;
    // Each run has its own.
    docker(session, &["start", "box"])?;
    let seen = docker(
        session,
        &["exec", "box", "grep", "-c", "localhost", "/etc/hosts"],
    )?;
    same("the next run", seen.as_str(), "2")?;
    docker(session, &["rm", "-f", "box"]).map(drop)
}
