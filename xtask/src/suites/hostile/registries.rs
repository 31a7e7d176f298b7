//! Registries that want credentials that are not theirs, or answer without end.

use anyhow::{Context, Result, ensure};
use berth_testkit::archive::{Entry, Tar};
use berth_testkit::image::Recipe;
use berth_testkit::registry::{Auth, Break, Outage, Registry};
use serde_json::{Value, json};

use super::stage::{Stage, is_refused, raw};
use crate::cri::Answer;

const USER: &str = "crew";
const PASSWORD: &str = "hunter2-never-told";

/// Redirects, URLs in descriptors and realms name another server: it never hears who we are.
pub fn credentials(stage: &mut Stage) -> Result<()> {
    let thief = stage.session.cri.beside(Registry::start());
    let thief = thief.context("starting another registry")?;
    let layer = raw(Tar::of([Entry::file("a", "1")]).end())?;
    thief.add_blob(layer.bytes.clone());
    let image = Recipe::new().layer(layer.clone()).build()?;
    thief.add_blob(image.config.clone());
    let honest = stage.serve(&image, "secret");

    stage.registry.behave(|b| {
        b.auth = Auth::basic(USER, PASSWORD);
        b.redirect_blobs = Some((307, thief.url()));
    });
    let answer = pull_as(stage, &honest);
    ensure!(answer.is_ok(), "a redirect is followed: {answer:?}");
    stage.registry.behave(|b| b.redirect_blobs = None);
    stage.remove(&honest)?;

    // Foreign layers name other places in the manifest.
    let mut manifest: Value = serde_json::from_slice(&image.manifest).context("a manifest")?;
    let url = format!("{}/v2/secret/blobs/{}", thief.url(), layer.digest);
    manifest["layers"][0]["urls"] = json!([url]);
    stage.registry.add_manifest(
        "secret",
        Some("urls"),
        image.manifest_media_type,
        manifest.to_string().into_bytes(),
    );
    let name = format!("{}/secret:urls", stage.registry.host());
    if pull_as(stage, &name).is_ok() {
        stage.remove(&name)?;
    }

    let realm = format!("http://{}.evil.example:1/token", "berth");
    stage.registry.behave(|b| {
        b.auth = Auth::Bearer {
            account: Some((USER.to_owned(), PASSWORD.to_owned())),
            refresh_token: None,
            realm: Some(realm),
            expires_in: None,
        };
    });
    let answer = pull_as(stage, &honest);
    stage.registry.behave(|b| b.auth = Auth::Everybody);
    is_refused("a realm elsewhere", &answer, &["evil.example"])?;
    let message = answer.err().map(|status| status.message().to_owned());
    let message = message.unwrap_or_default();
    ensure!(!message.contains(PASSWORD), "the password is told");

    for seen in thief.requests() {
        let told = format!("{:?} {}", seen.headers, seen.query);
        ensure!(
            seen.header("authorization").is_none() && !told.contains(PASSWORD),
            "the other server was told {told}"
        );
    }
    ensure!(!thief.requests().is_empty(), "the redirect was not tried");
    let log = std::fs::read_to_string(stage.session.daemon_log()).context("reading the log")?;
    ensure!(!log.contains(PASSWORD), "the password is in the log");
    Ok(())
}

fn pull_as(stage: &mut Stage, name: &str) -> Answer<String> {
    stage.session.cri.pull_as(name, USER, PASSWORD)
}

/// What it says of digests and lengths is checked, and what never comes is not waited for.
pub fn lies(stage: &mut Stage) -> Result<()> {
    let layer = raw(Tar::of([Entry::file("a", vec![7; 100_000])]).end())?;
    let image = Recipe::new().layer(layer.clone()).build()?;
    let name = stage.serve(&image, "lies");

    let other = [&layer.bytes[..], b"more"].concat();
    stage.registry.replace(&layer.digest, other);
    let answer = stage.session.cri.pull(&name);
    is_refused("a longer blob", &answer, &[layer.digest.as_str()])?;
    let mut flipped = layer.bytes.clone();
    *flipped.last_mut().context("an empty layer")? ^= 1;
    stage.registry.replace(&layer.digest, flipped);
    let answer = stage.session.cri.pull(&name);
    is_refused("another blob", &answer, &[layer.digest.as_str()])?;
    stage.registry.replace(&layer.digest, layer.bytes.clone());

    let endless = vec![b' '; 64 << 20];
    let media_type = image.manifest_media_type;
    let registry = &stage.registry;
    registry.add_manifest("lies", Some("endless"), media_type, endless);
    let large = format!("{}/lies:endless", registry.host());
    let answer = stage.session.cri.pull(&large);
    is_refused("a manifest of 64 MiB", &answer, &[])?;

    stage.registry.behave(|b| {
        b.break_off = Some(Break {
            times: 100,
            after: 10,
            stall: false,
        });
    });
    let answer = stage.session.cri.pull(&name);
    stage.registry.behave(|b| b.break_off = None);
    is_refused(
        "transfers that break off",
        &answer,
        &["RegistryUnavailable"],
    )?;
    stage.registry.behave(|b| {
        b.outage = Some(Outage {
            times: 100,
            status: 503,
            retry_after: Some("0".to_owned()),
        });
    });
    let answer = stage.session.cri.pull(&name);
    stage.registry.behave(|b| b.outage = None);
    is_refused("an outage", &answer, &["RegistryUnavailable", "503"])?;

    stage.session.cri.pull(&name).context("once it is honest")?;
    stage.remove(&name)
}
