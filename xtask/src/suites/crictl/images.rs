//! Steps that concern images.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::session::{PASSWORD, Session, USER};
use super::{contains, same};

pub fn pull_by_tag(session: &mut Session) -> Result<()> {
    for tag in [":one", ":two"] {
        let said = session.crictl.text(&["pull", &session.reference(tag)])?;
        contains("crictl pull", &said, session.image.config_digest.as_str())?;
    }
    Ok(())
}

pub fn pull_by_digest(session: &mut Session) -> Result<()> {
    let reference = session.reference(&format!("@{}", session.image.manifest_digest));
    let said = session.crictl.text(&["pull", &reference])?;
    contains("crictl pull", &said, session.image.config_digest.as_str())
}

pub fn pull_missing(session: &mut Session) -> Result<()> {
    let said = session
        .crictl
        .refusal(&["pull", &session.reference(":three")])?;
    contains("crictl pull", &said.to_lowercase(), "not found")
}

pub fn pull_without_credentials(session: &mut Session) -> Result<()> {
    session
        .crictl
        .refusal(&["pull", &session.private_reference()])?;
    ensure!(
        find(session, session.private_image.config_digest.as_str())?.is_none(),
        "it is there"
    );
    Ok(())
}

pub fn pull_with_wrong_credentials(session: &mut Session) -> Result<()> {
    let reference = session.private_reference();
    let said = session
        .crictl
        .refusal(&["pull", "--creds", "crew:wrong-word", &reference])?;
    ensure!(
        !said.contains("wrong-word"),
        "the password is repeated: {said}"
    );
    Ok(())
}

pub fn pull_with_credentials(session: &mut Session) -> Result<()> {
    let credentials = format!("{USER}:{PASSWORD}");
    let reference = session.private_reference();
    let said = session
        .crictl
        .text(&["pull", "--creds", &credentials, &reference])?;
    contains(
        "crictl pull",
        &said,
        session.private_image.config_digest.as_str(),
    )
}

pub fn list(session: &mut Session) -> Result<()> {
    let ids = session.crictl.text(&["images", "--quiet", "--no-trunc"])?;
    same("number of images", ids.lines().count(), 2)?;

    let image = find(session, session.image.config_digest.as_str())?.context("not listed")?;
    let mut tags = strings(&image["repoTags"]);
    tags.sort();
    same(
        "tags",
        tags,
        vec![session.reference(":one"), session.reference(":two")],
    )?;
    let digest = session.reference(&format!("@{}", session.image.manifest_digest));
    same("digests", strings(&image["repoDigests"]), vec![digest])?;
    let size: u64 = image["size"]
        .as_str()
        .unwrap_or_default()
        .parse()
        .context("size")?;
    ensure!(size > 0, "the size is zero");
    Ok(())
}

pub fn inspect(session: &mut Session) -> Result<()> {
    let id = session.image.config_digest.as_str();
    for name in [
        id,
        id.trim_start_matches("sha256:"),
        &session.reference(":one"),
    ] {
        let shown = session.crictl.json(&["inspecti", name])?;
        same("id", shown["status"]["id"].as_str(), Some(id))?;
    }
    Ok(())
}

pub fn remove(session: &mut Session) -> Result<()> {
    session.crictl.text(&[
        "rmi",
        &session.reference(":one"),
        &session.private_reference(),
    ])?;
    same(
        "images left",
        session.crictl.text(&["images", "--quiet"])?,
        String::new(),
    )?;
    session
        .crictl
        .refusal(&["inspecti", &session.reference(":two")])
        .map(drop)
}

fn find(session: &Session, id: &str) -> Result<Option<Value>> {
    let listed = session.crictl.json(&["images", "--output", "json"])?;
    let mut images = listed["images"].as_array().cloned().unwrap_or_default();
    images.retain(|image| image["id"] == id);
    ensure!(images.len() < 2, "{id} is listed {} times", images.len());
    Ok(images.pop())
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}
