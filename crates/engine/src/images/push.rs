//! `POST /images/{name}/push`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use berth_images::{Image, PushPhase, PushProgress, PushWatch};
use berth_names::{Digest, ImageRef};
use berth_registry::{Credentials, Pushed};
use serde_json::json;

use super::name;
use super::pull::short;
use crate::events::Kind;
use crate::progress::{self, Detail, Line, Progress};
use crate::{Engine, Error, Query, Result};

/// How often a push under way is looked at.
const GLANCE: Duration = Duration::from_millis(100);

pub async fn push(
    engine: Arc<Engine>,
    name: &str,
    query: &Query,
    credentials: Credentials,
) -> Result<Response> {
    let wanted = match query.text("tag") {
        "" => name::parse(name)?,
        tag => name::parse(&format!("{}:{tag}", name::parse(name)?.repository()))?,
    };
    let members = query.all("berth-images").map(|id| name::find(&engine, id));
    let members = members.collect::<Result<Vec<_>>>()?;
    let references = match query.text("tag") {
        _ if !members.is_empty() => vec![wanted.clone()],
        "" if wanted.familiar() != name && wanted.to_string() != name => tags_of(&engine, &wanted),
        _ => vec![wanted.clone()],
    };
    progress::stream(move |progress| async move {
        let repository = wanted.repository();
        let status = format!("The push refers to repository [{repository}]");
        progress.status(None, status).await;
        if references.is_empty() {
            return Err(Error::NotFound(format!(
                "An image does not exist locally with the tag: {}",
                wanted.familiar_name()
            )));
        }
        for reference in &references {
            one(&engine, reference, &members, &credentials, &progress).await?;
        }
        Ok(())
    })
    .await
}

fn tags_of(engine: &Engine, wanted: &ImageRef) -> Vec<ImageRef> {
    let repository = wanted.repository();
    let images = engine.images.list();
    let tags = images.iter().flat_map(|image| &image.repo_tags);
    let parsed = tags.filter_map(|tag| ImageRef::parse(tag).ok());
    parsed
        .filter(|tag| tag.repository() == repository)
        .collect()
}

/// What the reference means, or an index of these images.
async fn one(
    engine: &Engine,
    reference: &ImageRef,
    members: &[Arc<Image>],
    credentials: &Credentials,
    progress: &Progress,
) -> Result<()> {
    let watch = PushWatch::default();
    let mut told = HashMap::new();
    let images = &engine.images;
    let mut pushing = std::pin::pin!(async {
        match members {
            [] => images.push(reference, credentials, &watch).await,
            members => {
                let index = images.push_index(reference, members, credentials, &watch);
                index.await
            }
        }
    });
    let pushed = loop {
        match tokio::time::timeout(GLANCE, &mut pushing).await {
            Ok(pushed) => break pushed,
            Err(_) => tell(&watch, &mut told, progress).await,
        }
    };
    tell(&watch, &mut told, progress).await;
    let pushed = pushed.map_err(|error| refused(reference, error))?;
    let tag = reference.tag().unwrap_or_default();
    let status = format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size);
    progress.status(None, status).await;
    progress
        .send(&Line {
            progress_detail: Some(Detail::default()),
            aux: Some(json!({ "Tag": tag, "Digest": pushed.digest, "Size": pushed.size })),
            ..Line::default()
        })
        .await;
    if members.is_empty()
        && let Some(known) = engine.images.reference(reference)
        && let Some(image) = engine.images.get(&known.image.to_string())
    {
        let attributes = super::attributes(&image, &reference.familiar_name());
        let actor = reference.familiar();
        engine
            .events
            .publish(Kind::Image, "push", actor, attributes);
    }
    Ok(())
}

/// In the words that Docker's users search for.
fn refused(reference: &ImageRef, error: berth_images::Error) -> Error {
    if let berth_images::Error::Push { source, .. } = &error
        && let berth_registry::Error::Unauthorized { reason, .. } = &**source
    {
        return Error::Unauthorized(format!(
            "push access denied for {}: {reason}: log in with docker login, as somebody who may \
             push there",
            reference.familiar_name()
        ));
    }
    Error::Images(error)
}

async fn tell(watch: &PushWatch, told: &mut HashMap<Digest, PushPhase>, progress: &Progress) {
    for layer in watch.layers() {
        if told.get(&layer.diff_id) == Some(&layer.phase) {
            continue;
        }
        for line in lines(&layer, told.get(&layer.diff_id)) {
            progress.send(&line).await;
        }
        told.insert(layer.diff_id, layer.phase);
    }
}

fn lines(layer: &PushProgress, before: Option<&PushPhase>) -> Vec<Line> {
    let line = |status: String, detail: Detail| Line {
        status: Some(status),
        progress_detail: Some(detail),
        id: Some(short(&layer.diff_id)),
        ..Line::default()
    };
    let mut lines = Vec::new();
    if before.is_none() {
        lines.push(line("Preparing".to_owned(), Detail::default()));
    }
    match &layer.phase {
        PushPhase::Preparing => {}
        PushPhase::Pushing { sent, size } => {
            let detail = Detail {
                current: Some(*sent),
                total: Some(*size),
            };
            lines.push(line("Pushing".to_owned(), detail));
        }
        PushPhase::Done(pushed, from) => {
            let status = match (pushed, from) {
                (Pushed::Present, _) => "Layer already exists".to_owned(),
                (Pushed::Mounted, Some(from)) => format!("Mounted from {from}"),
                (Pushed::Mounted | Pushed::Uploaded, _) => "Pushed".to_owned(),
            };
            lines.push(line(status, Detail::default()));
        }
    }
    lines
}
