//! One layer: from the registry, or from a blob that is here, into the snapshotter.

use std::sync::Arc;

use berth_content::Ingest;
use berth_metadata::schema::LayerRecord;
use berth_names::ChainId;
use berth_registry::BlobStream;
use berth_snapshots::{LayerDraft, LayerInfo};
use berth_unpack::Applied;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::bridge::{self, InFlight, Piece, PieceSender};
use crate::images::blocking;
use crate::manifest::{Descriptor, LayerPlan};
use crate::pull::Pull;
use crate::scrub::repair::{self, Outcome};
use crate::unpacking::Unpacking;
use crate::watch::Phase;
use crate::{Error, Result};

/// How long to wait for another process that writes the same blob.
const BUSY_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Sees to it that the layer is unpacked, and says whether that had to be done. Layers are shared
/// by pulls: while one works on a layer, or on another layer from the same blob, the others wait
/// and then find it done.
pub(crate) async fn obtain(
    pull: Arc<Pull>,
    plan: LayerPlan,
    cancel: CancellationToken,
) -> Result<bool> {
    let span = tracing::info_span!("layer", digest = %plan.descriptor.digest,
        size = plan.descriptor.size);
    let done = |made: bool| {
        pull.watch.set(&plan.descriptor.digest, Phase::Done);
        made
    };
    let work = async {
        let shared = Arc::clone(&pull.shared);
        let _layer = pull
            .unless(&cancel, shared.layers.lock(plan.chain_id.clone()))
            .await?;
        let is_here = has_layer(&pull, &plan.chain_id).await?;
        if is_here && has_blob(&pull, &plan.descriptor).await? {
            tracing::debug!("the layer is here already");
            pull.watch.set(&plan.descriptor.digest, Phase::Present);
            return Ok(false);
        }
        let _blob = pull
            .unless(&cancel, shared.blobs.lock(plan.descriptor.digest.clone()))
            .await?;
        // Last, so that whoever has a permit waits for nobody who needs one.
        let _permit = pull.unless(&cancel, shared.permits.acquire()).await?;
        if is_here {
            return restore_blob(&pull, &plan, &cancel)
                .await
                .map(|()| done(true));
        }
        match fetch_and_unpack(&pull, &plan, &cancel).await? {
            Attempt::Done => Ok(done(true)),
            Attempt::StartOver(why) => {
                tracing::warn!(why, "the layer is fetched again from its start");
                match fetch_and_unpack(&pull, &plan, &cancel).await? {
                    Attempt::Done => Ok(done(true)),
                    Attempt::StartOver(_) => Err(bad_twice(&plan)),
                }
            }
        }
    };
    work.instrument(span).await
}

/// Fetches the blob of a layer that is here: it was found bad, and so may be what was made of it.
async fn restore_blob(
    pull: &Arc<Pull>,
    plan: &LayerPlan,
    cancel: &CancellationToken,
) -> Result<()> {
    tracing::info!("the blob of a layer that is here is fetched again");
    fetch(pull, &plan.descriptor, cancel).await?;
    let (pull, plan) = (Arc::clone(pull), plan.clone());
    blocking("compare layer", move || {
        let layer = LayerRecord {
            digest: plan.descriptor.digest,
            diff_id: plan.diff_id,
            chain_id: plan.chain_id.clone(),
            size: plan.descriptor.size,
        };
        match repair::check_and_heal(&pull.shared, &layer)? {
            Outcome::Good | Outcome::Healed => Ok(()),
            Outcome::Retired => Err(Error::Layer {
                operation: "it was bad and could not be made anew: try again",
                source: berth_snapshots::Error::LayerMissing {
                    layer: plan.chain_id.clone(),
                },
                layer: plan.chain_id,
            }),
        }
    })
    .await
}

/// Gets a blob without unpacking it.
pub(crate) async fn fetch(
    pull: &Pull,
    blob: &Descriptor,
    cancel: &CancellationToken,
) -> Result<()> {
    let (ingest, stream) = begin(pull, blob, cancel).await?;
    let resumes = ingest.offset() > 0;
    match transfer(pull, ingest, None, stream, cancel).await {
        Err(Error::DigestMismatch { .. }) if resumes => {
            tracing::warn!(blob = %blob.digest, "resumed data was bad: fetched from its start");
            let (ingest, stream) = begin(pull, blob, cancel).await?;
            transfer(pull, ingest, None, stream, cancel).await
        }
        done => done,
    }
}

enum Attempt {
    Done,
    /// What was on disk turned out to be bad and has been removed.
    StartOver(&'static str),
}

fn bad_twice(plan: &LayerPlan) -> Error {
    let digest = plan.descriptor.digest.clone();
    Error::Content {
        operation: "the blob of a layer is damaged as soon as it is written",
        source: berth_content::Error::NotFound(digest),
    }
}

pub(crate) async fn has_layer(pull: &Pull, chain: &ChainId) -> Result<bool> {
    let (snapshotter, chain) = (Arc::clone(&pull.shared.snapshotter), chain.clone());
    blocking("look up layer", move || {
        let found = snapshotter
            .layer(&chain)
            .map_err(Error::layer("look up", &chain))?;
        Ok(found.is_some())
    })
    .await
}

async fn fetch_and_unpack(
    pull: &Arc<Pull>,
    plan: &LayerPlan,
    cancel: &CancellationToken,
) -> Result<Attempt> {
    if has_blob(pull, &plan.descriptor).await? {
        return unpack_stored(pull, plan).await;
    }
    let (ingest, stream) = begin(pull, &plan.descriptor, cancel).await?;
    if ingest.offset() > 0 {
        // The decoder needs the blob from its start: fetch the rest, then unpack from disk.
        tracing::info!(offset = ingest.offset(), "resuming the blob of a layer");
        let outcome = transfer(pull, ingest, None, stream, cancel).await;
        return match outcome {
            Ok(()) => unpack_stored(pull, plan).await,
            Err(Error::DigestMismatch { .. }) => Ok(Attempt::StartOver("resumed data was bad")),
            Err(error) => Err(error),
        };
    }
    stream_and_unpack(pull, plan, ingest, stream, cancel)
        .await
        .map(|()| Attempt::Done)
}

/// Begins to store a blob, and to fetch what an earlier attempt did not get of it.
pub(crate) async fn begin(
    pull: &Pull,
    blob: &Descriptor,
    cancel: &CancellationToken,
) -> Result<(Ingest, BlobStream)> {
    let (content, descriptor) = (pull.shared.content.clone(), blob.clone());
    let ingest = blocking("start to store blob", move || {
        content
            .ingest_within(&descriptor.digest, Some(descriptor.size), BUSY_PATIENCE)
            .map_err(Error::content("store the blob of a layer"))
    })
    .await?;
    let (image, credentials) = (&pull.reference, &pull.credentials);
    let registry = &pull.shared.registry;
    let size = Some(blob.size);
    let opened = registry.blob(image, &blob.digest, size, ingest.offset(), credentials);
    let stream = pull
        .unless(cancel, opened)
        .await?
        .map_err(|e| pull.registry(e))?;
    Ok((ingest, stream))
}

pub(crate) async fn has_blob(pull: &Pull, blob: &Descriptor) -> Result<bool> {
    let (content, descriptor) = (pull.shared.content.clone(), blob.clone());
    blocking("look up blob", move || {
        let lookup = Error::content("look up the blob of a layer");
        match content.has(&descriptor.digest).map_err(&lookup)? {
            Some(size) if size == descriptor.size => Ok(true),
            // The digest decides what a blob is; a blob of another size is damaged, or the
            // manifest lies, which the transfer will find.
            Some(_) => content
                .remove(&descriptor.digest)
                .map(|_| false)
                .map_err(&lookup),
            None => Ok(false),
        }
    })
    .await
}

/// The pass over the network: blob file and layer are made at once.
async fn stream_and_unpack(
    pull: &Arc<Pull>,
    plan: &LayerPlan,
    ingest: Ingest,
    stream: BlobStream,
    cancel: &CancellationToken,
) -> Result<()> {
    let (sender, reader) = bridge::pieces();
    let stop = cancel.child_token();
    let unpacking = {
        let (pull, plan, stop) = (Arc::clone(pull), plan.clone(), stop.clone());
        blocking("unpack layer", move || {
            let unpacked = unpack(&pull, &plan, reader);
            // A bad archive is fetched to its end all the same: if its digest is wrong too, that
            // is the better answer. A disk that is full takes no more.
            if let Err(error) = &unpacked
                && !is_bad_archive(error)
            {
                stop.cancel();
            }
            unpacked
        })
    };
    let storing = transfer(pull, ingest, Some(sender), stream, &stop);
    let (stored, unpacked) = tokio::join!(storing, unpacking);
    match (stored, unpacked) {
        (Ok(()), Ok((draft, applied))) => {
            let info = Unpacking::planned(plan).info(applied)?;
            commit(pull, plan, draft, info).await
        }
        (Ok(()), Err(error)) => {
            discard_blob(pull, plan).await;
            Err(error)
        }
        // The unpacking stopped the transfer.
        (Err(Error::Cancelled { .. }), Err(error)) if !cancel.is_cancelled() => Err(error),
        (Err(error), _) => Err(error),
    }
}

fn is_bad_archive(error: &Error) -> bool {
    matches!(error, Error::Unpack { source, .. } if source.is_bad_archive())
}

/// A blob that is what its digest says and cannot be unpacked is of no use.
async fn discard_blob(pull: &Pull, plan: &LayerPlan) {
    let (content, digest) = (pull.shared.content.clone(), plan.descriptor.digest.clone());
    let removed = blocking("discard blob", move || {
        content
            .remove(&digest)
            .map_err(Error::content("discard the blob of a layer"))
    });
    if let Err(error) = removed.await {
        tracing::warn!(
            error = error.report(),
            "an unusable blob stays until the next collection"
        );
    }
}

/// Moves a blob from the network to its file, and to the unpacking if there is one.
pub(crate) async fn transfer(
    pull: &Pull,
    ingest: Ingest,
    unpacking: Option<PieceSender>,
    mut stream: BlobStream,
    stop: &CancellationToken,
) -> Result<()> {
    let digest = ingest.digest().clone();
    let received = ingest.offset();
    pull.watch.set(&digest, Phase::Downloading { received });
    let (sender, receiver) = mpsc::channel(bridge::DEPTH);
    let storing = blocking("store blob", move || store(ingest, receiver, unpacking));
    let watched = &digest;
    let in_flight = InFlight::new();
    let fetching = async move {
        loop {
            let Some(bytes) = pull
                .unless(stop, stream.chunk())
                .await?
                .map_err(|error| pull.registry(error))?
            else {
                // A closed channel means that storing has failed, and says so itself.
                let _ = sender.send(Piece::End).await;
                return Ok(());
            };
            pull.shared.meters.received(bytes.len());
            pull.watch.received(watched, bytes.len() as u64);
            let part = pull.unless(stop, in_flight.admit(bytes)).await?;
            if sender.send(Piece::Data(part)).await.is_err() {
                return Ok(());
            }
        }
    };
    let (fetched, stored) = tokio::join!(fetching, storing);
    match (fetched, stored?) {
        (Ok(()), Stored::Complete) => {
            pull.watch.set(&digest, Phase::Unpacking);
            Ok(())
        }
        (Err(error), _) => Err(error),
        (Ok(()), Stored::GivenUp) => Err(pull.cancelled()),
    }
}

enum Stored {
    Complete,
    /// The sender went before the end; the partial file stays for the next attempt.
    GivenUp,
}

fn store(
    mut ingest: Ingest,
    mut pieces: mpsc::Receiver<Piece>,
    unpacking: Option<PieceSender>,
) -> Result<Stored> {
    let failed = Error::content("store the blob of a layer");
    let mut unpacking = unpacking;
    loop {
        match pieces.blocking_recv() {
            None => return Ok(Stored::GivenUp),
            Some(Piece::Data(part)) => {
                if let Err(error) = ingest.write(&part.bytes) {
                    // On a full disk what has arrived would be in everybody's way.
                    let _ = ingest.abort();
                    return Err(failed(error));
                }
                // A reader that has gone has its own error to report.
                unpacking = unpacking.filter(|reader| reader.send(Piece::Data(part)));
            }
            Some(Piece::End) => {
                if let Some(reader) = unpacking {
                    reader.send(Piece::End);
                }
                ingest.commit().map_err(&failed)?;
                return Ok(Stored::Complete);
            }
        }
    }
}

/// Unpacks from a blob that is here. If that fails because the blob is damaged, it is removed.
async fn unpack_stored(pull: &Arc<Pull>, plan: &LayerPlan) -> Result<Attempt> {
    pull.watch.set(&plan.descriptor.digest, Phase::Unpacking);
    let (work, layer) = (Arc::clone(pull), plan.clone());
    let unpacked = blocking("unpack layer", move || {
        let content = &work.shared.content;
        let digest = &layer.descriptor.digest;
        let blob = content
            .open_blob(digest)
            .map_err(Error::content("open blob"))?;
        let unpacked = unpack(&work, &layer, blob)
            .and_then(|(draft, applied)| Ok((draft, Unpacking::planned(&layer).info(applied)?)));
        match unpacked {
            Ok(done) => Ok(Some(done)),
            Err(error) => match content.verify(digest) {
                Err(berth_content::Error::DigestMismatch { .. }) => {
                    content
                        .remove(digest)
                        .map_err(Error::content("remove a damaged blob"))?;
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    })
    .await?;
    match unpacked {
        Some((draft, info)) => commit(pull, plan, draft, info)
            .await
            .map(|()| Attempt::Done),
        None => Ok(Attempt::StartOver("the stored blob was damaged")),
    }
}

fn unpack(
    pull: &Pull,
    plan: &LayerPlan,
    reader: impl std::io::Read + Send,
) -> Result<(LayerDraft, Applied)> {
    let _span = tracing::info_span!("unpack").entered();
    Unpacking::planned(plan).draft(&pull.shared, reader)
}

/// Makes the layer visible. It is flushed with the others behind the pull.
async fn commit(
    pull: &Arc<Pull>,
    plan: &LayerPlan,
    draft: LayerDraft,
    info: LayerInfo,
) -> Result<()> {
    let (pull, plan) = (Arc::clone(pull), plan.clone());
    blocking("commit layer", move || {
        let snapshotter = &pull.shared.snapshotter;
        snapshotter
            .commit(draft, info)
            .map_err(Error::layer("commit", &plan.chain_id))
    })
    .instrument(Span::current())
    .await
}
