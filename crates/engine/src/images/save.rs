//! `GET /images/get` and `GET /images/{name}/get`.

use std::io::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use berth_images::Chosen;
use berth_names::ImageRef;
use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::name;
use crate::events::Kind;
use crate::{Engine, Error, Query, Result};

/// Pieces that wait for a slow client.
const QUEUE: usize = 16;
const PIECE: usize = 64 << 10;

pub async fn many(State(engine): State<Arc<Engine>>, query: Query) -> Result<Response> {
    let names: Vec<&str> = query.all("names").collect();
    save(&engine, &names)
}

pub fn save(engine: &Arc<Engine>, names: &[&str]) -> Result<Response> {
    if names.is_empty() {
        return Err(Error::bad("no image is named: add names=…"));
    }
    let mut chosen: Vec<Chosen> = Vec::new();
    for name in names {
        for one in choose(engine, name)? {
            match chosen
                .iter_mut()
                .find(|known| known.image.id == one.image.id)
            {
                Some(known) => known.names.extend(one.names),
                None => chosen.push(one),
            }
        }
    }
    for one in &chosen {
        let id = one.image.id.to_string();
        let attributes = super::attributes(&one.image, &id);
        engine.events.publish(Kind::Image, "save", id, attributes);
    }
    let (sender, pieces) = mpsc::channel(QUEUE);
    let (images, failed) = (Arc::clone(&engine.images), sender.clone());
    tokio::spawn(async move {
        let sink = Pieces {
            sender,
            piece: Vec::with_capacity(PIECE),
        };
        if let Err(error) = images.save(chosen, sink).await {
            tracing::warn!(error = error.report(), "an archive broke off");
            // The answer has begun: only a broken connection says that it is not whole.
            let broken = std::io::Error::other("the archive broke off");
            let _ = failed.send(Err(broken)).await;
        }
    });
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(pieces)));
    let tar = HeaderValue::from_static("application/x-tar");
    response.headers_mut().insert(CONTENT_TYPE, tar);
    Ok(response)
}

/// By a tag the image has that name in the archive, by a bare repository each of its images has
/// all its tags, and by id it has none.
fn choose(engine: &Engine, name: &str) -> Result<Vec<Chosen>> {
    let reference = ImageRef::parse(name).ok();
    if let Some(reference) = &reference
        && reference.familiar() != name
        && reference.to_string() != name
    {
        let tags = of_repository(engine, reference);
        if !tags.is_empty() {
            return Ok(tags);
        }
    }
    let image = name::find(engine, name)?;
    let known = reference.filter(|reference| {
        let found = engine.images.reference(reference);
        reference.digest().is_none() && found.is_some_and(|found| found.image == image.id)
    });
    let names = known.into_iter().collect();
    Ok(vec![Chosen { image, names }])
}

fn of_repository(engine: &Engine, wanted: &ImageRef) -> Vec<Chosen> {
    let repository = wanted.repository();
    let mut chosen = Vec::new();
    for image in engine.images.list() {
        let tags = image.repo_tags.iter();
        let names: Vec<_> = tags
            .filter_map(|tag| ImageRef::parse(tag).ok())
            .filter(|tag| tag.repository() == repository)
            .collect();
        if !names.is_empty() {
            chosen.push(Chosen { image, names });
        }
    }
    chosen
}

/// Sends what is written in pieces of a sensible size; fails when the client has gone.
struct Pieces {
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let sent = self.sender.blocking_send(Ok(piece.into()));
        sent.map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}
