//! `GET /containers/{name}/export`: the layer and the image below it, without what is mounted there.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use berth_unpack::{TreeOptions, pack_tree};

use crate::pieces::{self, blocking};
use crate::{Engine, Result};

pub async fn export(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
) -> Result<Response> {
    let container = engine.containers.get(&name)?;
    let root = engine.containers.layer_root(&container).await?;
    let response = pieces::archive(|sink| {
        blocking("exporting a container", move || {
            pack_tree(root.fd(), sink, &TreeOptions::default())?;
            Ok(())
        })
    });
    engine.containers.tell(&container, "export");
    Ok(response)
}
