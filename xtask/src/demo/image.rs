//! The image of the demo and the registry that serves it.

use std::sync::Arc;

use anyhow::{Context, Result};
use berth_testkit::image::{Compression, Layer, Recipe, Remote};
use berth_testkit::registry::Registry;

use super::teller::bytes;
use crate::artefacts;

pub const PROGRAM: &str = "/berth-hello";
const REPOSITORY: &str = "berth/hello";
const TAG: &str = "1";
/// Neither root nor anybody else on a usual host.
pub const USER: u32 = 65532;

/// An image in a registry of this process.
pub struct Published {
    /// As a pod specification would have it.
    pub reference: String,
    /// What there is to pull, for people.
    pub summary: String,
    pub registry: Registry,
}

/// Packs the static program into a layer, a second layer with the names of its
/// user, and pushes both.
pub async fn publish() -> Result<Published> {
    let registry = Registry::start().await.context("starting a registry")?;
    let host = registry.host();
    // Packing and the client of the fixtures block.
    let summary = tokio::task::spawn_blocking(move || make_and_push(&host))
        .await
        .context("making the image")??;
    Ok(Published {
        reference: format!("{}/{REPOSITORY}:{TAG}", registry.host()),
        summary,
        registry,
    })
}

fn make_and_push(host: &str) -> Result<String> {
    let program = Layer::new().copy(&artefacts::hello(), PROGRAM)?;
    let users = Layer::new()
        .file("/etc/passwd", 0o644, format!("crew:x:{USER}:{USER}::/:\n"))
        .file("/etc/group", 0o644, format!("crew:x:{USER}:\n"));
    let image = Recipe::new()
        .layer(Arc::new(program.pack(Compression::Gzip)?))
        .layer(Arc::new(users.pack(Compression::Gzip)?))
        .user("crew")
        .entrypoint(&[PROGRAM])
        .stop_signal("SIGTERM")
        .build()?;
    Remote::new(host).push(&image, REPOSITORY, &[TAG])?;
    let size: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
    Ok(format!(
        "{} layers, {} packed, manifest {}",
        image.layers.len(),
        bytes(size as u64),
        image.manifest_digest
    ))
}
