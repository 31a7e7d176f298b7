//! Steps that concern registries: logins and pushes.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cut::Relay;
use super::session::{PASSWORD, Session, USER};
use super::{contains, same};

/// Both outputs, and whether it worked.
fn login(session: &Session, password: &str) -> Result<(bool, String)> {
    let address = session.locked_registry.address();
    let mut child = session
        .docker
        .command(&["login", "--username", USER, "--password-stdin", address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting docker login")?;
    let mut input = child.stdin.take().context("its input")?;
    input
        .write_all(password.as_bytes())
        .context("giving the password")?;
    drop(input);
    let output = child.wait_with_output().context("docker login")?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

pub fn login_wrong(session: &mut Session) -> Result<()> {
    let (worked, said) = login(session, "wrong-word")?;
    ensure!(!worked, "it worked: {said}");
    contains("docker login", &said, "unauthorized")?;
    ensure!(
        !said.contains("wrong-word"),
        "the password is repeated: {said}"
    );
    Ok(())
}

pub fn push_without_login(session: &mut Session) -> Result<()> {
    let name = session.locked_reference("team/app:1");
    session
        .docker
        .text(&["tag", &session.reference(":one"), &name])?;
    let said = session.docker.refusal(&["push", &name])?;
    contains("docker push", &said, "push access denied")
}

fn login_right(session: &Session) -> Result<()> {
    let (worked, said) = login(session, PASSWORD)?;
    ensure!(worked, "docker login: {said}");
    contains("docker login", &said, "Login Succeeded")
}

fn login_kept(session: &Session) -> Result<String> {
    fs::read_to_string(session.docker.config.join("config.json")).context("the client's logins")
}

pub fn push(session: &mut Session) -> Result<()> {
    let name = session.locked_reference("team/app:1");
    let told = session.docker.lines(&["push", &name])?;
    let repository = session.locked_reference("team/app");
    let first = format!("The push refers to repository [{repository}]");
    same("the first line", told.first(), Some(&first))?;
    let pushed = told
        .iter()
        .filter(|line| line.ends_with(": Pushed"))
        .count();
    same("layers pushed", pushed, 2)?;
    let digest = &session.image.manifest_digest;
    let size = session.image.manifest.len();
    let last = format!("1: digest: {digest} size: {size}");
    same("the last line", told.last(), Some(&last))?;
    let remote = session.locked_registry.remote();
    ensure!(
        remote.manifest("team/app", "1")? == session.image.manifest,
        "another manifest"
    );
    let digests = session
        .docker
        .text(&["inspect", "--format", "{{.RepoDigests}}", &name])?;
    contains("RepoDigests", &digests, &format!("{repository}@{digest}"))
}

pub fn push_again(session: &mut Session) -> Result<()> {
    let name = session.locked_reference("team/app:1");
    let told = session.docker.lines(&["push", &name])?;
    let present = told
        .iter()
        .filter(|line| line.ends_with(": Layer already exists"));
    same("layers that were there", present.count(), 2)
}

pub fn push_mounted(session: &mut Session) -> Result<()> {
    let (from, name) = (
        session.locked_reference("team/app:1"),
        session.locked_reference("other/copy:2"),
    );
    session.docker.text(&["tag", &from, &name])?;
    let told = session.docker.lines(&["push", &name])?;
    let mounted = told
        .iter()
        .filter(|line| line.ends_with(": Mounted from team/app"));
    same("layers mounted", mounted.count(), 2)?;
    let remote = session.locked_registry.remote();
    let layer = session.image.layers.first().context("no layer")?;
    ensure!(
        remote.blob("other/copy", &layer.digest)? == layer.bytes,
        "another layer"
    );
    Ok(())
}

pub fn pull_private(session: &mut Session) -> Result<()> {
    let name = session.locked_reference("team/app:1");
    session.docker.text(&["rmi", &name])?;
    let refused = session.docker.request(
        "POST",
        &format!(
            "/images/create?fromImage={}&tag=1",
            session.locked_reference("team/app")
        ),
        &[],
    )?;
    same("without a login", refused.status, 404)?;
    let message = refused.json()?["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    contains("without a login", &message, "may require 'docker login'")?;
    let told = session.docker.text(&["pull", &name])?;
    contains("docker pull", &told, session.image.manifest_digest.as_str())
}

pub fn push_imported(session: &mut Session) -> Result<()> {
    let name = session.locked_reference("imported:1");
    session.docker.text(&["tag", "imported:1", &name])?;
    session.docker.text(&["push", &name])?;
    let manifest = session.locked_registry.remote().manifest("imported", "1")?;
    let manifest: Value = serde_json::from_slice(&manifest).context("the manifest")?;
    let kind = manifest["layers"][0]["mediaType"].as_str();
    same(
        "the layer",
        kind,
        Some("application/vnd.oci.image.layer.v1.tar+gzip"),
    )?;
    let id = session
        .docker
        .text(&["images", "-q", "--no-trunc", &name])?;
    session.docker.text(&["rmi", "--force", &id])?;
    session.docker.text(&["pull", "--quiet", &name])?;
    let again = session
        .docker
        .text(&["images", "-q", "--no-trunc", &name])?;
    same("the image that comes back", again, id)
}

/// This registry does not find an upload again that broke off within a piece: it is begun anew.
pub fn push_cut(session: &mut Session) -> Result<()> {
    let layers = session.image.layers.iter();
    let total: u64 = layers.map(|layer| layer.bytes.len() as u64).sum();
    let relay = Relay::start(session.registry.address(), total * 3 / 4)?;
    let name = format!("{}/cut/app:1", relay.address());
    session
        .docker
        .text(&["tag", &session.reference(":one"), &name])?;
    session.docker.text(&["push", &name])?;
    ensure!(relay.has_cut(), "nothing was cut off");
    let remote = session.registry.remote();
    ensure!(
        remote.manifest("cut/app", "1")? == session.image.manifest,
        "another manifest"
    );
    for layer in &session.image.layers {
        ensure!(
            remote.blob("cut/app", &layer.digest)? == layer.bytes,
            "another layer"
        );
    }
    session.docker.text(&["rmi", &name]).map(drop)
}

pub fn push_missing(session: &mut Session) -> Result<()> {
    let name = session.locked_reference("nothing:1");
    let said = session.docker.refusal(&["push", &name])?;
    contains(
        "docker push",
        &said,
        "An image does not exist locally with the tag",
    )
}

pub fn distribution(session: &mut Session) -> Result<()> {
    let path = format!("/distribution/{}/json", session.reference(":one"));
    let told = session.docker.request("GET", &path, &[])?.json()?;
    let digest = session.image.manifest_digest.to_string();
    same(
        "digest",
        told["Descriptor"]["digest"].as_str(),
        Some(digest.as_str()),
    )?;
    same(
        "platform",
        told["Platforms"][0]["os"].as_str(),
        Some("linux"),
    )?;
    let path = format!("/distribution/{}/json", session.reference(":absent"));
    same(
        "a missing tag",
        session.docker.request("GET", &path, &[])?.status,
        404,
    )
}

pub fn search(session: &mut Session) -> Result<()> {
    let term = format!("{}/busybox", session.registry.address());
    let said = session.docker.refusal(&["search", &term])?;
    contains("docker search", &said, "has no search")
}

pub fn login_step(session: &mut Session) -> Result<()> {
    login_right(session)?;
    contains(
        "the client's logins",
        &login_kept(session)?,
        session.locked_registry.address(),
    )
}

pub fn logout(session: &mut Session) -> Result<()> {
    let address = session.locked_registry.address().to_owned();
    session.docker.text(&["logout", &address])?;
    ensure!(
        !login_kept(session)?.contains(&address),
        "the login is still there"
    );
    let said = session
        .docker
        .refusal(&["pull", &session.locked_reference("other/copy:9")])?;
    contains("docker pull", &said, "may require 'docker login'")
}
