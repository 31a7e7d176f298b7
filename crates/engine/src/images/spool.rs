//! Archives that clients send: onto the disk first, where they can be looked through.

use std::fs::File;

use axum::body::Body;
use futures::TryStreamExt;
use tokio::io::AsyncWriteExt;

use crate::{Engine, Error, Result};

/// Writes the whole body to a file that has no name.
pub async fn receive(engine: &Engine, body: Body) -> Result<File> {
    let file = engine.images.spool().await?;
    let mut file = tokio::fs::File::from_std(file);
    let mut pieces = body.into_data_stream();
    let failed = |source| Error::Io {
        operation: "cannot store the archive",
        source,
    };
    while let Some(piece) = pieces.try_next().await.map_err(Error::Receive)? {
        file.write_all(&piece).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    Ok(file.into_std().await)
}
