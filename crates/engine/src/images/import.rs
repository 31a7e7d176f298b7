//! Imports: an image of one layer, from an archive of a file system.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use berth_images::Section;
use bytes::Bytes;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::changes::Changes;
use super::{name, spool};
use crate::events::Kind;
use crate::{Engine, Error, Query, Result, progress};

pub async fn import(engine: Arc<Engine>, query: &Query, body: Body) -> Result<Response> {
    let source = query.text("fromSrc");
    if source != "-" {
        return Err(Error::NotImplemented(format!(
            "importing from {source:?} is not done by the daemon: download it and pipe it to \
             docker import -"
        )));
    }
    let (repository, tag) = (query.text("repo"), query.text("tag"));
    let names = match (repository, tag) {
        ("", _) => Vec::new(),
        (repository, "") => vec![name::parse(repository)?],
        (repository, tag) => vec![name::parse(&format!("{repository}:{tag}"))?],
    };
    let changes = Changes::parse(query.all("changes"))?;
    let message = match query.text("message") {
        "" => "Imported from -".to_owned(),
        message => message.to_owned(),
    };
    let archive = spool::receive(&engine, body).await?;
    progress::stream(move |progress| async move {
        let archive = Section::whole(archive).map_err(|source| Error::Io {
            operation: "cannot read the archive",
            source,
        })?;
        let mut intake = engine.images.intake(None).await?;
        intake.layer(archive).await?;
        let config = config(intake.diff_ids(), &changes, &message, &engine);
        let id = intake.finish(config, None, &names).await?;
        if let Some(image) = engine.images.get(&id.to_string()) {
            let shown = names.first().map(|name| name.familiar());
            let attributes = super::attributes(&image, &shown.unwrap_or_else(|| id.to_string()));
            engine
                .events
                .publish(Kind::Image, "import", id.to_string(), attributes);
        }
        progress.status(None, id.to_string()).await;
        Ok(())
    })
    .await
}

fn config(
    diff_ids: &[berth_names::Digest],
    changes: &Changes,
    message: &str,
    engine: &Engine,
) -> Bytes {
    let now = OffsetDateTime::now_utc().format(&Rfc3339);
    let now = now.unwrap_or_default();
    let platform = engine.images.platform();
    let mut execution = json!({});
    changes.apply(&mut execution);
    let config = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": now,
        "comment": message,
        "config": execution,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [{ "created": now, "comment": message }],
    });
    Bytes::from(config.to_string())
}
