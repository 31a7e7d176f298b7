//! Manifests, indexes and configs that no honest tool makes.

use anyhow::{Context, Result, ensure};
use berth_testkit::hostile::documents::changed;
use berth_testkit::image::{Image, Recipe};
use serde_json::{Value, json};

use super::stage::{SEED, Stage, is_refused, is_told, raw};
use berth_testkit::archive::{Entry, Tar};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Of each kind.
const COUNT: usize = 110;

/// An honest image to be changed.
fn honest() -> Result<Image> {
    let layer = |name: &str| raw(Tar::of([Entry::file(name, "1")]).end());
    let recipe = Recipe::new().layer(layer("a")?).layer(layer("b")?);
    let recipe = recipe.annotation("org.opencontainers.image.title", "t");
    Ok(recipe
        .env(&["A=b"])
        .labels(&[("l", "m")])
        .user("7:8")
        .build()?)
}

/// Never half of an image: the daemon refuses, or has what the config's digest says.
pub fn mutated(stage: &mut Stage) -> Result<()> {
    let image = honest()?;
    stage.serve(&image, "documents");
    let manifest: Value = serde_json::from_slice(&image.manifest).context("a manifest")?;
    let config: Value = serde_json::from_slice(&image.config).context("a config")?;
    let index = index_of(&image, &config);
    let mut refused = 0;
    for (what, bytes) in changed(SEED, &manifest, COUNT) {
        refused += try_one(
            stage,
            &format!("manifest: {what}"),
            image.manifest_media_type,
            bytes,
        )?;
    }
    for (what, bytes) in changed(SEED + 1, &index, COUNT) {
        refused += try_one(stage, &format!("index: {what}"), INDEX, bytes)?;
    }
    for (what, bytes) in changed(SEED + 2, &config, COUNT) {
        let size = bytes.len();
        let digest = stage.registry.add_blob(bytes);
        let mut around = manifest.clone();
        around["config"]["digest"] = json!(digest.as_str());
        around["config"]["size"] = json!(size);
        let bytes = around.to_string().into_bytes();
        refused += try_one(
            stage,
            &format!("config: {what}"),
            image.manifest_media_type,
            bytes,
        )?;
    }
    // Parts of blobs are kept for a later attempt: here is one.
    let name = stage.serve(&image, "documents");
    stage
        .session
        .cri
        .pull(&name)
        .context("an honest manifest")?;
    stage.remove(&name)?;
    println!(
        "  note    {refused} of {} documents were refused",
        3 * COUNT
    );
    ensure!(refused > COUNT, "only {refused} were refused");
    Ok(())
}

fn index_of(image: &Image, config: &Value) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{
            "mediaType": image.manifest_media_type, "digest": image.manifest_digest.as_str(),
            "size": image.manifest.len(),
            "platform": { "os": "linux", "architecture": config["architecture"] },
        }],
    })
}

/// 1 if it was refused.
fn try_one(stage: &mut Stage, what: &str, media_type: &str, bytes: Vec<u8>) -> Result<usize> {
    let registry = &stage.registry;
    registry.add_manifest("documents", Some("now"), media_type, bytes);
    let name = format!("{}/documents:now", registry.host());
    let answer = stage.session.cri.pull(&name);
    if !is_told(what, &answer)? {
        return Ok(1);
    }
    stage
        .remove(&name)
        .with_context(|| what.to_owned())
        .map(|()| 0)
}

/// A few MiB of text that would be hundreds in memory.
pub fn swelling(stage: &mut Stage) -> Result<()> {
    let image = honest()?;
    stage.serve(&image, "documents");
    let lists = format!("[{}[]]", "[],".repeat(2_500_000));
    let manifest = String::from_utf8(image.manifest.clone()).context("a manifest")?;
    let config = String::from_utf8(image.config.clone()).context("a config")?;
    let swollen = |text: &str, field: &str| {
        let field = format!("{{\"{field}\":{lists},");
        text.replacen('{', &field, 1).into_bytes()
    };
    let media_type = image.manifest_media_type;
    for field in ["x", "annotations"] {
        let bytes = swollen(&manifest, field);
        let registry = &stage.registry;
        registry.add_manifest("documents", Some("now"), media_type, bytes);
        let name = format!("{}/documents:now", registry.host());
        let answer = stage.session.cri.pull(&name);
        is_refused("a swollen manifest", &answer, &["values"])?;
    }
    let bytes = swollen(&config, "x");
    let size = bytes.len();
    let digest = stage.registry.add_blob(bytes);
    let mut around: Value = serde_json::from_str(&manifest).context("a manifest")?;
    around["config"]["digest"] = json!(digest.as_str());
    around["config"]["size"] = json!(size);
    let registry = &stage.registry;
    registry.add_manifest(
        "documents",
        Some("now"),
        media_type,
        around.to_string().into_bytes(),
    );
    let name = format!("{}/documents:now", registry.host());
    let answer = stage.session.cri.pull(&name);
    is_refused("a swollen config", &answer, &["values"])
}
