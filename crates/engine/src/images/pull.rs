//! `POST /images/create`: pulls, and imports of archives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use berth_images::{LayerProgress, Phase, Platform, PullWatch};
use berth_names::{Digest, ImageRef};
use berth_registry::Credentials;

use super::{failure, import, name};
use crate::events::Kind;
use crate::progress::{self, Detail, Line, Progress};
use crate::registry_auth::RegistryAuth;
use crate::{Engine, Error, Query, Result};

/// How often a pull under way is looked at.
const GLANCE: Duration = Duration::from_millis(100);
/// Characters of a digest that people see.
const SHORT: usize = 12;

pub async fn create(
    State(engine): State<Arc<Engine>>,
    query: Query,
    RegistryAuth(credentials): RegistryAuth,
    request: Request,
) -> Result<Response> {
    if query.text("fromImage").is_empty() {
        return import::import(engine, &query, request.into_body()).await;
    }
    let reference = wanted(&query)?;
    let platform = platform(&engine, query.text("platform"))?;
    let all = means_all(&query);
    progress::stream(move |progress| async move {
        if !all {
            return pull(&engine, &reference, platform, credentials, &progress).await;
        }
        for tag in engine
            .images
            .registry()
            .tags(&reference, &credentials)
            .await?
        {
            let reference = name::parse(&format!("{}:{tag}", reference.repository()))?;
            let (platform, credentials) = (platform.clone(), credentials.clone());
            pull(&engine, &reference, platform, credentials, &progress).await?;
        }
        Ok(())
    })
    .await
}

/// Neither the name nor the tag beside it says which image of the repository: every one.
fn means_all(query: &Query) -> bool {
    let name = query.text("fromImage");
    let last = name.rsplit('/').next().unwrap_or_default();
    query.text("tag").is_empty() && !last.contains([':', '@'])
}

/// The name with the tag or digest that may come apart from it.
fn wanted(query: &Query) -> Result<ImageRef> {
    let (name, tag) = (query.text("fromImage"), query.text("tag"));
    match tag {
        "" => name::parse(name),
        digest if digest.contains(':') => {
            // A tag beside the digest says nothing more.
            let bare = match name::parse(name)?.tag() {
                Some(_) => name::parse(name)?.repository(),
                None => name.to_owned(),
            };
            name::parse(&format!("{bare}@{digest}"))
        }
        tag => name::parse(&format!("{}:{tag}", name::parse(name)?.repository())),
    }
}

/// What a query names as `platform`; `None` where it names none, or this machine's.
pub fn platform(engine: &Engine, wanted: &str) -> Result<Option<Platform>> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let platform = Platform::parse(wanted).ok_or_else(|| {
        Error::bad(format!(
            "{wanted:?} is no platform: write one, as in linux/arm64"
        ))
    })?;
    if platform.os != "linux" {
        return Err(Error::NotImplemented(format!(
            "images of {} are nothing here: they need a machine of it",
            platform.os
        )));
    }
    Ok(Some(platform).filter(|platform| platform != engine.images.platform()))
}

async fn pull(
    engine: &Engine,
    reference: &ImageRef,
    platform: Option<Platform>,
    credentials: Credentials,
    progress: &Progress,
) -> Result<()> {
    let images = &engine.images;
    let before = images.reference(reference);
    let platform = platform.unwrap_or_else(|| images.platform().clone());
    let (watch, outcome) = images.pull_of(reference, credentials, platform, true);
    let mut teller = Teller::new(reference, watch, progress.clone());
    let mut outcome = std::pin::pin!(outcome);
    let pulled = loop {
        match tokio::time::timeout(GLANCE, &mut outcome).await {
            Ok(pulled) => break pulled,
            Err(_) => teller.tell().await,
        }
    };
    teller.tell().await;
    let id = pulled.map_err(|error| failure::of_pull(reference, error))?;
    teller.introduce().await;
    let after = engine.images.reference(reference);
    let shown = reference.familiar();
    if let Some(after) = &after {
        let digest = format!("Digest: {}", after.target);
        progress.status(None, digest).await;
    }
    let is_new = match (&before, &after) {
        (Some(before), Some(after)) => before.target != after.target || before.image != after.image,
        _ => true,
    };
    let status = if is_new {
        format!("Status: Downloaded newer image for {shown}")
    } else {
        format!("Status: Image is up to date for {shown}")
    };
    tell_event(engine, reference, &id);
    progress.status(None, status).await;
    Ok(())
}

fn tell_event(engine: &Engine, reference: &ImageRef, id: &Digest) {
    if let Some(image) = engine.images.get(&id.to_string()) {
        let attributes = super::attributes(&image, &reference.familiar_name());
        let actor = reference.familiar();
        engine
            .events
            .publish(Kind::Image, "pull", actor, attributes);
    }
}

/// Says what changed since the last look.
struct Teller {
    watch: PullWatch,
    progress: Progress,
    /// Of the repository, at its registry.
    name: String,
    reference: String,
    introduced: bool,
    told: HashMap<Digest, Phase>,
}

impl Teller {
    fn new(reference: &ImageRef, watch: PullWatch, progress: Progress) -> Self {
        let digest = reference.digest().map(Digest::to_string);
        let tag = digest.or_else(|| reference.tag().map(str::to_owned));
        Self {
            watch,
            progress,
            name: reference.path().to_owned(),
            reference: tag.unwrap_or_default(),
            introduced: false,
            told: HashMap::new(),
        }
    }

    /// The first line; it says that the image is there to be pulled.
    async fn introduce(&mut self) {
        if !std::mem::replace(&mut self.introduced, true) {
            let status = format!("Pulling from {}", self.name);
            self.progress.status(Some(&self.reference), status).await;
        }
    }

    async fn tell(&mut self) {
        let layers = self.watch.layers();
        if layers.is_empty() {
            return;
        }
        self.introduce().await;
        for layer in layers {
            let told = self.told.get(&layer.digest).copied();
            if told == Some(layer.phase) {
                continue;
            }
            for line in lines(&layer, told) {
                self.progress.send(&line).await;
            }
            self.told.insert(layer.digest, layer.phase);
        }
    }
}

/// What a client is told of a layer that was in phase `before`. Phases that passed between two
/// looks are told all the same: people read the whole story.
fn lines(layer: &LayerProgress, before: Option<Phase>) -> Vec<Line> {
    let line = |status: &str, detail: Detail| Line {
        status: Some(status.to_owned()),
        progress_detail: Some(detail),
        id: Some(short(&layer.digest)),
        ..Line::default()
    };
    let of = |current: u64| Detail {
        current: Some(current),
        total: Some(layer.size),
    };
    let plain = |status: &str| line(status, Detail::default());
    if layer.phase == Phase::Present {
        return vec![plain("Already exists")];
    }
    let mut lines = Vec::new();
    if before.is_none() {
        lines.push(plain("Pulling fs layer"));
    }
    let rank = rank(layer.phase);
    let from = before.map_or(0, self::rank);
    if let Phase::Downloading { received } = layer.phase {
        lines.push(line("Downloading", of(received)));
    }
    if rank >= 2 && from < 2 {
        lines.push(plain("Verifying Checksum"));
        lines.push(plain("Download complete"));
        lines.push(line("Extracting", of(layer.size)));
    }
    if rank == 3 {
        lines.push(plain("Pull complete"));
    }
    lines
}

fn rank(phase: Phase) -> u8 {
    match phase {
        Phase::Waiting | Phase::Present => 0,
        Phase::Downloading { .. } => 1,
        Phase::Unpacking => 2,
        Phase::Done => 3,
    }
}

pub fn short(digest: &Digest) -> String {
    digest.hex().chars().take(SHORT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tags_and_digests_come_together() {
        let hash = format!("sha256:{}", "ab".repeat(32));
        for (query, expected) in [
            (
                "fromImage=busybox&tag=1",
                "docker.io/library/busybox:1".to_owned(),
            ),
            (
                "fromImage=busybox",
                "docker.io/library/busybox:latest".to_owned(),
            ),
            ("fromImage=h:5000/a/b&tag=1", "h:5000/a/b:1".to_owned()),
            (
                &format!("fromImage=h:5000/a/b&tag={hash}"),
                format!("h:5000/a/b@{hash}"),
            ),
            (
                &format!("fromImage=h:5000/a/b@{hash}"),
                format!("h:5000/a/b@{hash}"),
            ),
        ] {
            let found = wanted(&Query::parse(query)).unwrap();
            assert_eq!(found.to_string(), expected, "{query}");
        }
        assert!(wanted(&Query::parse("fromImage=UPPER")).is_err());
        for (query, all) in [
            ("fromImage=busybox", true),
            ("fromImage=h:5000/a/b&tag=", true),
            ("fromImage=busybox&tag=1", false),
            ("fromImage=h:5000/a/b:1", false),
        ] {
            assert_eq!(means_all(&Query::parse(query)), all, "{query}");
        }
    }

    #[test]
    fn every_phase_of_a_layer_is_told_also_when_looks_are_far_apart() {
        let told = |phase, before| {
            let layer = LayerProgress {
                digest: Digest::sha256_of(b"x"),
                size: 10,
                phase,
            };
            let lines = lines(&layer, before);
            let texts = lines.into_iter().filter_map(|line| line.status);
            texts.collect::<Vec<_>>().join(", ")
        };
        let all = "Pulling fs layer, Verifying Checksum, Download complete, Extracting, \
                   Pull complete";
        assert_eq!(told(Phase::Done, None), all);
        assert_eq!(told(Phase::Present, None), "Already exists");
        assert_eq!(told(Phase::Waiting, None), "Pulling fs layer");
        let halfway = Phase::Downloading { received: 5 };
        assert_eq!(told(halfway, Some(Phase::Waiting)), "Downloading");
        assert_eq!(
            told(Phase::Unpacking, Some(halfway)),
            "Verifying Checksum, Download complete, Extracting"
        );
        assert_eq!(told(Phase::Done, Some(Phase::Unpacking)), "Pull complete");
    }
}
