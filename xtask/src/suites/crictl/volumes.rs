//! A container with an artifact as a volume and a device by name.

use std::fs;

use anyhow::{Context, Result, ensure};
use berth_testkit::image::Artifact;
use serde_json::json;

use super::life::{container_request, create_container};
use super::session::Session;
use super::{contains, same};

const REPOSITORY: &str = "crew/model";
const CARD: &str = "\
cdiVersion: 0.7.0
kind: vendor.example/card
devices:
- name: zero
  containerEdits:
    env: [CARD=zero]
    deviceNodes: [{path: /dev/card0, hostPath: /dev/zero}]
";

pub fn artifact_and_device(session: &mut Session) -> Result<()> {
    let artifact = Artifact::new("application/vnd.example.model")
        .file("weights/model.bin", "weights\n")
        .build()?;
    let remote = session.registry.remote();
    remote.push(&artifact, REPOSITORY, &["one"])?;
    let name = format!("{}/{REPOSITORY}:one", session.registry.address());
    let id = artifact.manifest_digest.to_string();
    contains("crictl pull", &session.crictl.text(&["pull", &name])?, &id)?;
    let listed = session.crictl.text(&["images", "--quiet", "--no-trunc"])?;
    contains("crictl images", &listed, &id)?;
    let card = session.place.cdi().join("card.yaml");
    fs::write(&card, CARD).context("describing a card")?;

    let mut request = container_request(session, "model", &["sleep", "1000"]);
    request["mounts"] = json!([{ "container_path": "/model", "image": { "image": name } }]);
    request["CDI_devices"] = json!([{ "name": "vendor.example/card=zero" }]);
    let container = create_container(session, &request)?;
    session.crictl.text(&["start", &container])?;
    let look = "cat /model/weights/model.bin; echo $CARD; head -c 3 /dev/card0 | wc -c";
    let said = session
        .crictl
        .text(&["exec", "-s", &container, "sh", "-c", look])?;
    let said: Vec<&str> = said.lines().map(str::trim).collect();
    same("exec", said, vec!["weights", "zero", "3"])?;
    let shown = session.crictl.json(&["inspect", &container])?;
    let mounts = shown["status"]["mounts"].as_array().context("no mounts")?;
    let mut images = mounts.iter().map(|mount| &mount["image"]["image"]);
    ensure!(images.any(|image| *image == *id), "{mounts:?}");

    session.crictl.text(&["rm", "--force", &container])?;
    session.crictl.text(&["rmi", &name])?;
    fs::remove_file(&card).context("removing the card")
}
