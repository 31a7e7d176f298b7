//! Steps that look at the bare interface: what clients rely on before they trust anything.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use anyhow::{Context, Result, ensure};

use super::session::Session;
use super::{contains, same};

pub fn socket(session: &mut Session) -> Result<()> {
    let metadata = fs::metadata(&session.docker.socket).context("looking at the socket")?;
    ensure!(metadata.file_type().is_socket(), "it is no socket");
    same("mode", metadata.permissions().mode() & 0o777, 0o660)
}

pub fn ping(session: &mut Session) -> Result<()> {
    for (method, body) in [("GET", "OK"), ("HEAD", "")] {
        for path in ["/_ping", "/v1.24/_ping", "/v1.50/_ping"] {
            let answer = session.docker.request(method, path, &[])?;
            let what = format!("{method} {path}");
            same(&what, answer.status, 200)?;
            if method == "GET" {
                same(&what, answer.body.as_str(), body)?;
            }
            for (name, value) in [
                ("api-version", "1.50"),
                ("ostype", "linux"),
                ("docker-experimental", "false"),
                ("swarm", "inactive"),
                ("content-type", "text/plain; charset=utf-8"),
                ("cache-control", "no-cache, no-store, must-revalidate"),
            ] {
                same(&format!("{what}: {name}"), answer.header(name), Some(value))?;
            }
        }
    }
    Ok(())
}

pub fn versions(session: &mut Session) -> Result<()> {
    for (version, message) in [
        (
            "1.51",
            "client version 1.51 is too new. Maximum supported API version is 1.50",
        ),
        (
            "1.23",
            "client version 1.23 is too old. Minimum supported API version is 1.24, please \
             upgrade your client to a newer version",
        ),
    ] {
        let answer = session
            .docker
            .request("GET", &format!("/v{version}/version"), &[])?;
        same(version, answer.status, 400)?;
        same(version, answer.json()?["message"].as_str(), Some(message))?;
    }
    Ok(())
}

pub fn unknown_path(session: &mut Session) -> Result<()> {
    for (method, path) in [
        ("GET", "/nothing/here"),
        ("GET", "/v1.41/nothing"),
        ("POST", "/version"),
        ("GET", "/images/x/nothing"),
    ] {
        let answer = session.docker.request(method, path, &[])?;
        same(path, answer.status, 404)?;
        same(
            path,
            answer.header("content-type"),
            Some("application/json"),
        )?;
        same(
            path,
            answer.body.as_str(),
            "{\"message\":\"page not found\"}\n",
        )?;
    }
    let bad = session
        .docker
        .request("GET", "/images/json?filters=garbage", &[])?;
    same("bad filters", bad.status, 400)?;
    same(
        "bad filters",
        bad.json()?["message"].as_str(),
        Some("invalid filter"),
    )
}

pub fn swarm(session: &mut Session) -> Result<()> {
    let said = session.docker.refusal(&["node", "ls"])?;
    contains("docker node ls", &said, "This node is not a swarm manager")?;
    let answer = session.docker.request("GET", "/services", &[])?;
    same("GET /services", answer.status, 503)
}
