//! `POST /images/load`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use berth_images::Section;

use super::spool;
use crate::events::Kind;
use crate::{Engine, Error, Result, progress};

pub async fn load(State(engine): State<Arc<Engine>>, request: Request) -> Result<Response> {
    let archive = spool::receive(&engine, request.into_body()).await?;
    let archive = Section::whole(archive).map_err(|source| Error::Io {
        operation: "cannot read the archive",
        source,
    })?;
    progress::stream(move |progress| async move {
        for image in engine.images.load(archive).await? {
            let id = image.id.to_string();
            if let Some(known) = engine.images.get(&id) {
                let attributes = super::attributes(&known, &id);
                engine
                    .events
                    .publish(Kind::Image, "load", id.clone(), attributes);
            }
            for name in &image.names {
                progress
                    .text(format!("Loaded image: {}\n", name.familiar()))
                    .await;
            }
            if image.names.is_empty() {
                progress.text(format!("Loaded image ID: {id}\n")).await;
            }
        }
        Ok(())
    })
    .await
}
