//! `GET /containers/{name}/changes`: what a container has written, path by path.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use berth_lifecycle::WritableLayer;
use berth_unpack::{Change, Upper, changes};
use serde_json::json;

use crate::pieces::{self, Pieces, blocking};
use crate::{Engine, Error, Result};

pub async fn list(State(engine): State<Arc<Engine>>, Path(name): Path<String>) -> Result<Response> {
    let container = engine.containers.get(&name)?;
    let (layer, points) = engine.containers.written(&container).await?;
    let (response, sink) = pieces::begin("application/json");
    tokio::spawn(async move {
        let told = blocking("comparing a layer", move || tell(&layer, &points, sink));
        if let Err(error) = told.await {
            tracing::warn!(error = error.report(), "a list of changes broke off");
        }
    });
    Ok(response)
}

/// As Docker does, `null` where nothing has changed.
fn tell(layer: &WritableLayer, points: &[PathBuf], mut sink: Pieces) -> Result<()> {
    let points = below_root(points);
    let mut first = true;
    changes(&upper(layer, &points), |change, path| {
        let kind = match change {
            Change::Modified => 0,
            Change::Added => 1,
            Change::Deleted => 2,
        };
        let path = format!("/{}", String::from_utf8_lossy(path));
        let one = json!({ "Path": path, "Kind": kind });
        let open = if std::mem::take(&mut first) { "[" } else { "," };
        write!(sink, "{open}{one}")
    })?;
    let end = if first { "null\n" } else { "]\n" };
    let sent = sink.write_all(end.as_bytes()).and_then(|()| sink.flush());
    sent.map_err(|source| Error::Io {
        operation: "cannot send the changes",
        source,
    })
}

/// Paths without the slash before them.
pub fn below_root(points: &[PathBuf]) -> Vec<Vec<u8>> {
    let points = points.iter().map(|point| point.as_os_str().as_bytes());
    let points = points.map(|point| point.strip_prefix(b"/").unwrap_or(point));
    points.map(<[u8]>::to_vec).collect()
}

pub fn upper<'a>(layer: &'a WritableLayer, mount_points: &'a [Vec<u8>]) -> Upper<'a> {
    Upper {
        dir: layer.upper.as_fd(),
        lower: layer.lower.as_ref().map(AsFd::as_fd),
        mount_points,
    }
}
