//! Checkpoints: what a running container is at one moment, in an archive. The container goes on, or
//! ends with it.
//!
//! Processes are written down by criu: for Berth's own containers it is run from here, other shims
//! run it themselves through their runtime.

mod archive;
mod criu;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_shim_client::Shim;
use oci_spec::runtime::Spec;
use serde_json::json;

use crate::container::Container;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::record::{self, ContainerRecord, Nanos};
use crate::runtime::Runtime;
use crate::undo::blocking;
use criu::Criu;

/// Where the request names none.
const USUAL: Duration = Duration::from_secs(120);
const IMAGES: &str = "checkpoint";

/// What becomes of a container that was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It goes on.
    Runs,
    /// Its processes are killed at the moment that was written down.
    Ends,
}

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

impl Runtime {
    /// Writes a checkpoint of a running container to `location`, within `timeout` (zero means the
    /// usual one). It goes on when its caller is gone; what failed leaves nothing behind.
    #[tracing::instrument(skip(self))]
    pub async fn checkpoint(
        &self,
        id: &str,
        location: &Path,
        timeout: Duration,
        afterwards: Afterwards,
    ) -> Result<()> {
        let container = self.core.container(id)?;
        let shim = container.running("be checkpointed")?;
        let checkpoint = Checkpoint {
            work: work(location)?,
            location: location.to_owned(),
            afterwards,
            limit: if timeout.is_zero() { USUAL } else { timeout },
            core: Arc::clone(&self.core),
            container,
            shim,
        };
        let made = tokio::spawn(checkpoint.make());
        made.await.unwrap_or_else(|_| {
            Err(Error::TaskGone {
                id: id.to_owned(),
                action: "checkpoint",
            })
        })
    }

    /// Why checkpoints cannot be made here; `None` where they can.
    pub async fn checkpoint_problem(&self) -> Option<String> {
        let problem = Criu::find(&self.core).await.err()?;
        Some(crate::error::chain(&problem))
    }
}

/// A directory of our own beside the archive: memory may be large, and the archive has to get its
/// name by a rename.
fn work(location: &Path) -> Result<PathBuf> {
    let refuse = |problem: String| Err(Error::invalid("location", problem));
    let (Some(parent), Some(name)) = (location.parent(), location.file_name()) else {
        return refuse(format!("{location:?} names no file"));
    };
    if !location.is_absolute() {
        return refuse(format!("{location:?} is not absolute"));
    }
    if !parent.is_dir() {
        return refuse(format!("there is no directory {parent:?}"));
    }
    if location.is_dir() {
        return refuse(format!("{location:?} is a directory: name a file in it"));
    }
    let number = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let name = name.to_string_lossy();
    Ok(parent.join(format!(".{name}.{process}-{number}")))
}

struct Checkpoint {
    core: Arc<Core>,
    container: Arc<Container>,
    shim: Arc<Shim>,
    work: PathBuf,
    location: PathBuf,
    limit: Duration,
    afterwards: Afterwards,
}

impl Checkpoint {
    async fn make(self) -> Result<()> {
        let made = match tokio::time::timeout(self.limit, self.steps()).await {
            Ok(made) => made,
            Err(_) => Err(Error::CheckpointTimeout {
                id: self.container.id().clone(),
                limit: self.limit,
            }),
        };
        let work = self.work;
        let removed = blocking("remove what was dumped of", move || {
            let _never_made = fs::remove_dir_all(&work);
            Ok(())
        });
        removed.await?;
        made
    }

    async fn steps(&self) -> Result<()> {
        let criu = Criu::find(&self.core).await?;
        let images = self.work.join(IMAGES);
        let made = images.clone();
        let spec = self.container.files.spec();
        let spec = blocking("prepare a checkpoint of", move || {
            let mut builder = fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(&made)
                .map_err(state("create", &made))?;
            Ok(Spec::load(&spec)?)
        })
        .await?;
        self.dump(&criu, &spec, &images).await?;

        let (core, record) = (Arc::clone(&self.core), self.container.view());
        let spec = self.container.files.spec();
        let (work, location) = (self.work.clone(), self.location.clone());
        blocking("pack a checkpoint of", move || {
            describe(&record, &spec, &work)?;
            files(&core, &record, &work)?;
            archive::pack(&work, &location).map_err(state("write", &location))
        })
        .await
    }

    async fn dump(&self, criu: &Criu, spec: &Spec, images: &Path) -> Result<()> {
        let id = self.container.id();
        let failed = |reason: String| Error::Checkpoint {
            id: id.clone(),
            reason,
        };
        if self.shim.is_foreign() {
            if self.afterwards == Afterwards::Ends {
                return Err(failed(
                    "its runtime can only let it go on: say so".to_owned(),
                ));
            }
            let dumped = self.shim.checkpoint(images, &self.work, self.limit).await;
            return dumped.map_err(|error| failed(crate::error::chain(&error)));
        }
        let Some(init) = self.container.view().pid else {
            return Err(failed("it has just ended".to_owned()));
        };
        let dumped = criu.dump(init, spec, images, &self.work, self.limit, self.afterwards);
        dumped.await.map_err(failed)
    }
}

/// What readers of checkpoints want to know of the container.
fn describe(record: &ContainerRecord, spec: &Path, work: &Path) -> Result<()> {
    let config = json!({
        "id": record.id,
        "name": record.request.name,
        "rootfsImage": record.request.user_specified_image,
        "rootfsImageRef": record.image_id,
        "rootfsImageName": record.request.image,
        "createdTime": rfc3339(record.created_at),
        "checkpointedTime": rfc3339(record::now()),
        "restoredTime": rfc3339(0),
        "restored": false,
    });
    let status = json!({
        "id": record.id,
        "metadata": { "name": record.request.name, "attempt": record.request.attempt },
        "state": "CONTAINER_RUNNING",
        "createdAt": record.created_at,
        "startedAt": record.started_at,
        "imageRef": record.image_id,
        "labels": record.request.labels,
        "annotations": record.request.annotations,
        "logPath": record.log_path,
    });
    for (name, text) in [("config.dump", config), ("status.dump", status)] {
        let path = work.join(name);
        fs::write(&path, format!("{text:#}")).map_err(state("write", &path))?;
    }
    let to = work.join("spec.dump");
    fs::copy(spec, &to).map(drop).map_err(state("write", &to))
}

/// What the container has written and deleted, and its log; nothing where both outlive it.
fn files(core: &Core, record: &ContainerRecord, work: &Path) -> Result<()> {
    if record.request.on_layer.is_some() {
        return Ok(());
    }
    let id = record.id.to_string();
    let mounts = core.snapshots.mounts(&id);
    let mounts = mounts.map_err(|source| Error::Snapshot { id, source })?;
    let upper = mounts
        .iter()
        .flat_map(|mount| &mount.options)
        .find_map(|option| option.strip_prefix("upperdir="));
    if let Some(upper) = upper {
        let to = work.join("rootfs-diff.tar");
        let deleted = archive::write_layer(Path::new(upper), &to).map_err(state("write", &to))?;
        let to = work.join("deleted.files");
        fs::write(&to, json!(deleted).to_string()).map_err(state("write", &to))?;
    }
    if let Some(log) = record.log_path.as_deref().filter(|log| log.is_file()) {
        let to = work.join("container.log");
        fs::copy(log, &to).map(drop).map_err(state("write", &to))?;
    }
    Ok(())
}

fn state(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::State {
        action,
        path,
        source,
    }
}

fn rfc3339(at: Nanos) -> String {
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at));
    let text = moment.ok().and_then(|moment| moment.format(&Rfc3339).ok());
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_file_in_a_directory_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("c.tar");
        let first = work(&good).unwrap();
        assert_eq!(first.parent(), Some(dir.path()));
        assert_ne!(first, work(&good).unwrap());
        for bad in [
            Path::new("c.tar"),
            Path::new("/"),
            dir.path(),
            &dir.path().join("no/c.tar"),
        ] {
            assert!(work(bad).is_err(), "{bad:?}");
        }
    }
}
