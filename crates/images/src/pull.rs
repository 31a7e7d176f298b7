//! The pull of one reference, from its resolution to its record.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use berth_metadata::schema::{ImageRecord, LayerRecord, ReferenceRecord};
use berth_names::{Digest, ImageRef};
use berth_registry::Credentials;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::artifact::{self, Artifact};
use crate::document::{self, Content, Document, Found};
use crate::holds::Item;
use crate::images::{Shared, blocking};
use crate::manifest::{self, LayerPlan};
use crate::platform::Platform;
use crate::watch::PullWatch;
use crate::{Error, Result, catalog, layer};

/// What every step of one pull needs.
pub(crate) struct Pull {
    pub shared: Arc<Shared>,
    pub reference: ImageRef,
    pub credentials: Credentials,
    /// Whose image is chosen.
    pub platform: Platform,
    /// The reference means the image from now on.
    pub is_named: bool,
    pub watch: PullWatch,
}

impl Pull {
    /// Runs the pull to its end. When `cancel` fires it ends early, but in order: nothing that it
    /// started outlives it.
    pub(crate) async fn run(self, cancel: CancellationToken) -> Result<Digest> {
        let pull = Arc::new(self);
        let found = document::find(&pull, &cancel)
            .instrument(tracing::info_span!("resolve"))
            .await?;
        berth_faults::at("pull.after-resolve")?;
        let Planned { id, record, work } = plan(&pull, &found)?;

        // Held until the record protects it all.
        let _hold = pull
            .unless(&cancel, pull.shared.holds.hold(items(&record)))
            .await?;
        let mut documents = found.trail.clone();
        if let Content::Image { config, .. } = &found.content {
            documents.push(config.clone());
        }
        let fetching = async {
            match work {
                Work::Layers(plans) => layers(&pull, plans, &cancel).await,
                Work::Artifact(artifact) => artifact::obtain(&pull, artifact, &cancel).await,
            }
        };
        let (kept, fetched) = tokio::join!(document::keep(&pull, documents), fetching);
        let made = fetched?;
        kept?;
        berth_faults::at("pull.after-layers")?;
        if made && record.artifact_type.is_some() {
            sync(&pull).await?;
        }
        let id = pull.publish(&found, id, record).await?;
        // Also those that another pull has made a moment ago.
        pull.shared.flush_behind();
        Ok(id)
    }

    /// Writes the record and the references. From here on the image is there.
    async fn publish(&self, found: &Found, id: Digest, mut record: ImageRecord) -> Result<Digest> {
        // By its digest an index means the image of this machine.
        let is_own = self.platform == self.shared.config.platform;
        let top = found.trail.first().filter(|_| is_own);
        let target = top.map_or(&record.manifest, |top| &top.digest).clone();
        let reference = ReferenceRecord {
            image: id.clone(),
            target: target.clone(),
        };
        let mut names = vec![catalog::key(&self.reference.with_digest(target))];
        if self.is_named && self.reference.digest().is_none() {
            names.push(catalog::key(&self.reference));
        }
        let references: Vec<_> = names
            .into_iter()
            .map(|name| (name, reference.clone()))
            .collect();
        self.shared
            .change(move |catalog, batch| {
                // What an image was first pulled with stays, also when it is pulled again.
                if let Some(known) = catalog.record(&id) {
                    record.pinned = known.pinned;
                }
                batch.put(berth_metadata::schema::IMAGES, &id, &record)?;
                for (name, reference) in &references {
                    batch.put(berth_metadata::schema::REFERENCES, name, reference)?;
                }
                Ok((catalog.with(&id, record, &references), id))
            })
            .await
    }

    /// Awaits `work` unless the pull is cancelled before. `work` must not mind being dropped.
    pub(crate) async fn unless<T>(
        &self,
        cancel: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> Result<T> {
        cancel
            .run_until_cancelled(work)
            .await
            .ok_or_else(|| self.cancelled())
    }

    pub(crate) fn cancelled(&self) -> Error {
        Error::Cancelled {
            reference: self.reference.to_string(),
        }
    }

    pub(crate) fn registry(&self, source: berth_registry::Error) -> Error {
        Error::Registry {
            reference: self.reference.to_string(),
            source: Box::new(source),
        }
    }
}

/// What a pull leads to, and what has to be done for it.
struct Planned {
    id: Digest,
    record: ImageRecord,
    work: Work,
}

enum Work {
    Layers(Vec<LayerPlan>),
    Artifact(Artifact),
}

fn plan(pull: &Pull, found: &Found) -> Result<Planned> {
    match &found.content {
        Content::Image { manifest, config } => {
            let (reference, host) = (pull.reference.to_string(), &pull.platform);
            let (_, plans) = manifest::plan(&reference, manifest, &config.bytes, Some(host))?;
            Ok(Planned {
                id: config.digest.clone(),
                record: image_record(found, config, &plans)?,
                work: Work::Layers(plans),
            })
        }
        Content::Artifact(artifact) => Ok(Planned {
            id: found.manifest.clone(),
            record: artifact_record(found, artifact),
            work: Work::Artifact(artifact.clone()),
        }),
    }
}

fn artifact_record(found: &Found, artifact: &Artifact) -> ImageRecord {
    let blobs = artifact.files.iter().map(|file| &file.blob);
    let size = blobs.clone().map(|blob| blob.size).sum::<u64>();
    let trail = found.trail.iter().map(|one| one.digest.clone());
    let mut kept: Vec<Digest> = trail.chain(blobs.map(|blob| blob.digest.clone())).collect();
    kept.sort();
    kept.dedup();
    let own = found.trail.last().map_or(0, |last| last.bytes.len() as u64);
    ImageRecord {
        manifest: found.manifest.clone(),
        blobs: kept,
        layers: vec![LayerRecord {
            digest: found.manifest.clone(),
            diff_id: artifact.diff_id(),
            chain_id: artifact.chain_id(),
            size,
        }],
        size: own + size,
        config: serde_json::json!({}),
        pulled_at: SystemTime::now(),
        pinned: false,
        artifact_type: Some(artifact.kind.clone()),
        attestations: Vec::new(),
    }
}

pub(crate) fn image_record(
    found: &Found,
    config: &Document,
    plans: &[LayerPlan],
) -> Result<ImageRecord> {
    let digest = &config.digest;
    let own = config.bytes.len() as u64;
    let invalid = |problem: String| Error::invalid("config", digest, "JSON", problem);
    let mut config: serde_json::Value =
        serde_json::from_slice(&config.bytes).map_err(|error| invalid(error.to_string()))?;
    if let Some(fields) = config.as_object_mut() {
        fields.remove("history");
    }
    let layers: Vec<LayerRecord> = plans
        .iter()
        .map(|plan| LayerRecord {
            digest: plan.descriptor.digest.clone(),
            diff_id: plan.diff_id.clone(),
            chain_id: plan.chain_id.clone(),
            size: plan.descriptor.size,
        })
        .collect();
    let trail = found.trail.iter().map(|one| &one.digest);
    let documents = trail.chain([digest]).cloned();
    let mut blobs: Vec<Digest> = documents
        .chain(layers.iter().map(|layer| layer.digest.clone()))
        .collect();
    blobs.sort();
    blobs.dedup();
    let own = own + found.trail.last().map_or(0, |last| last.bytes.len() as u64);
    Ok(ImageRecord {
        manifest: found.manifest.clone(),
        blobs,
        size: own + layers.iter().map(|layer| layer.size).sum::<u64>(),
        layers,
        config,
        pulled_at: SystemTime::now(),
        pinned: false,
        artifact_type: None,
        attestations: Vec::new(),
    })
}

/// Everything that must not be collected while an image comes or is looked at.
pub(crate) fn items(record: &ImageRecord) -> Vec<Item> {
    let blobs = record.blobs.iter().cloned().map(Item::Blob);
    let layers = record
        .layers
        .iter()
        .map(|layer| Item::Layer(layer.chain_id.clone()));
    blobs.chain(layers).collect()
}

/// Obtains all layers, the largest first: it decides how long the pull takes. Says whether any had
/// to be made.
async fn layers(
    pull: &Arc<Pull>,
    mut plans: Vec<LayerPlan>,
    cancel: &CancellationToken,
) -> Result<bool> {
    pull.watch.plan(&plans);
    plans.sort_by_key(|plan| std::cmp::Reverse(plan.descriptor.size));
    let stop = cancel.child_token();
    let mut jobs = JoinSet::new();
    for plan in plans {
        let work = layer::obtain(Arc::clone(pull), plan, stop.clone());
        jobs.spawn(work.in_current_span());
    }
    settle(jobs, &stop).await
}

/// Waits for all jobs; the first that fails stops the others. Says whether any had work to do.
pub(crate) async fn settle(
    mut jobs: JoinSet<Result<bool>>,
    stop: &CancellationToken,
) -> Result<bool> {
    let mut outcome = Ok(false);
    while let Some(job) = jobs.join_next().await {
        let result = job.unwrap_or(Err(Error::Panicked {
            operation: "obtaining a blob",
        }));
        outcome = match (outcome, result) {
            (Ok(any), Ok(made)) => Ok(any || made),
            // The first error counts; the others end because of it, and are waited for.
            (Err(first), _) => Err(first),
            (Ok(_), Err(error)) => {
                stop.cancel();
                Err(error)
            }
        };
    }
    outcome
}

/// Makes the links of an artifact durable: nothing could make them again.
async fn sync(pull: &Pull) -> Result<()> {
    let snapshotter = Arc::clone(&pull.shared.snapshotter);
    blocking("sync layers", move || {
        snapshotter.sync().map_err(Error::snapshots("sync layers"))
    })
    .instrument(tracing::info_span!("sync"))
    .await
}
