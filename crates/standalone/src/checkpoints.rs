//! Checkpoints: what a container's processes are at one moment, written down, and started again from
//! there. Files are not part of it: they are what they are by then.
//!
//! ```text
//! <root>/containers/<id>/checkpoints/<name>/checkpoint.tar
//! <directory of the request>/<name>/checkpoint.tar
//! <either>/.<name>.<id>/                              while it is made
//! <root>/containers/<id>/checkpoint-begun             says where that is
//! ```

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::container::Container;
use crate::containers::Containers;
use crate::error::{Error, Result};
use crate::files::{Files, blocking};
use crate::name;

const ARCHIVE: &str = "checkpoint.tar";
/// In the container's directory: what is being made, and not whole.
const NOTE: &str = "checkpoint-begun";

const ATTEMPTS: u32 = 100;
const BETWEEN: Duration = Duration::from_millis(50);

/// A checkpoint that is to be made, or that a container is to be started from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointDraft {
    pub name: String,
    /// Where checkpoints lie; the container's own place where there is none.
    pub directory: Option<PathBuf>,
    /// The container ends with it.
    pub ends: bool,
}

impl CheckpointDraft {
    fn place(&self, files: &Files) -> Result<PathBuf> {
        name::checkpoint(&self.name)?;
        Ok(self.parent(files)?.join(&self.name))
    }

    fn parent(&self, files: &Files) -> Result<PathBuf> {
        match &self.directory {
            None => Ok(files.dir().join("checkpoints")),
            Some(directory) if directory.is_absolute() => Ok(directory.clone()),
            Some(directory) => Err(Error::invalid(format!(
                "checkpoint directory {directory:?} is not absolute"
            ))),
        }
    }

    /// Where it is made, until it is whole. Who is cut short finds by the note what to take back.
    fn staged(&self, files: &Files) -> Result<PathBuf> {
        let id = files.dir().file_name().unwrap_or_default();
        let name = format!(".{}.{}", self.name, id.to_string_lossy());
        Ok(self.parent(files)?.join(name))
    }

    /// The file that is to be written; its directory is made.
    pub(crate) async fn begin(&self, files: &Files, container: &str) -> Result<PathBuf> {
        let (place, staged) = (self.place(files)?, self.staged(files)?);
        if place.join(ARCHIVE).exists() {
            return Err(self.taken(container));
        }
        let note = files.dir().join(NOTE);
        blocking(move || {
            fs::write(&note, staged.as_os_str().as_bytes()).map_err(Error::file("write", &note))?;
            remove(&staged)?;
            let mut builder = fs::DirBuilder::new();
            let made = builder.mode(0o700).recursive(true).create(&staged);
            made.map_err(Error::file("create", &staged))?;
            Ok(staged.join(ARCHIVE))
        })
        .await
    }

    /// What was begun is whole.
    pub(crate) async fn finish(&self, files: &Files, container: &str) -> Result<()> {
        let (place, staged) = (self.place(files)?, self.staged(files)?);
        let (taken, note) = (self.taken(container), files.dir().join(NOTE));
        blocking(move || {
            fs::rename(&staged, &place).map_err(|error| match error.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => taken,
                _ => Error::file("create", &place)(error),
            })?;
            let parent = place.parent().unwrap_or(&place);
            let synced = fs::File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(Error::file("sync", parent))?;
            fs::remove_file(&note).map_err(Error::file("remove", &note))
        })
        .await
    }

    fn taken(&self, container: &str) -> Error {
        Error::Conflict(format!(
            "cannot checkpoint container {container}: checkpoint with name {} already exists for \
             container {container}",
            self.name
        ))
    }

    /// The file to start from.
    pub(crate) fn archive(&self, files: &Files, container: &str) -> Result<PathBuf> {
        let archive = self.place(files)?.join(ARCHIVE);
        match archive.is_file() {
            true => Ok(archive),
            false => Err(self.missing(container)),
        }
    }

    fn missing(&self, container: &str) -> Error {
        Error::CheckpointNotFound {
            name: self.name.clone(),
            container: container.to_owned(),
        }
    }

    /// Removes one that there is; whatever else may lie in that directory stays.
    async fn discard(&self, files: &Files, container: &str) -> Result<()> {
        let archive = self.archive(files, container)?;
        let place = self.place(files)?;
        blocking(move || {
            fs::remove_file(&archive).map_err(Error::file("remove", &archive))?;
            fs::remove_dir(&place).map_err(Error::file("remove", &place))
        })
        .await
    }
}

/// Takes back what was begun and never became whole. The criu of a daemon that was killed may be at
/// it still: it gives up once its directory is gone, and lets the container go on.
pub(crate) async fn take_back(files: &Files) -> Result<()> {
    let note = files.dir().join(NOTE);
    let Ok(staged) = fs::read(&note) else {
        return Ok(());
    };
    let staged = PathBuf::from(OsString::from_vec(staged));
    for attempt in 0.. {
        let (staged, note) = (staged.clone(), note.clone());
        let removed = blocking(move || {
            remove(&staged)?;
            fs::remove_file(&note).map_err(Error::file("remove", &note))
        });
        match removed.await {
            Err(_) if attempt < ATTEMPTS => tokio::time::sleep(BETWEEN).await,
            removed => return removed,
        }
    }
    Ok(())
}

fn remove(staged: &Path) -> Result<()> {
    match fs::remove_dir_all(staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", staged)(error))
        }
        _ => Ok(()),
    }
}

impl Containers {
    /// The names of a container's checkpoints.
    pub async fn checkpoints(
        &self,
        container: &Container,
        directory: Option<PathBuf>,
    ) -> Result<Vec<String>> {
        let draft = CheckpointDraft {
            directory,
            ..CheckpointDraft::default()
        };
        let parent = draft.parent(&self.files_of(container))?;
        blocking(move || match fs::read_dir(&parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Error::file("list", &parent)(error)),
            Ok(entries) => Ok(names(entries)),
        })
        .await
    }

    pub async fn remove_checkpoint(
        &self,
        container: &Container,
        draft: &CheckpointDraft,
    ) -> Result<()> {
        let files = self.files_of(container);
        draft.discard(&files, &container.view().name).await
    }

    fn files_of(&self, container: &Container) -> Files {
        Files::new(&self.house().root, container.view().id.as_str())
    }
}

fn names(entries: fs::ReadDir) -> Vec<String> {
    let is_one = |path: &Path| path.join(ARCHIVE).is_file();
    let found = entries.flatten().filter(|entry| is_one(&entry.path()));
    let mut names: Vec<String> = found
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_taken_once_and_leads_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "c1");
        files.create().unwrap();
        let mut draft = CheckpointDraft {
            name: "one".to_owned(),
            ..CheckpointDraft::default()
        };
        let said = |error: Error| error.to_string();
        assert_eq!(
            said(draft.archive(&files, "web").unwrap_err()),
            "checkpoint one does not exist for container web"
        );
        let archive = draft.begin(&files, "web").await.unwrap();
        fs::write(&archive, "").unwrap();
        assert!(draft.archive(&files, "web").is_err(), "before it is whole");
        draft.finish(&files, "web").await.unwrap();
        assert!(draft.archive(&files, "web").unwrap().is_file());
        assert_eq!(
            said(draft.begin(&files, "web").await.unwrap_err()),
            "cannot checkpoint container web: checkpoint with name one already exists for \
             container web"
        );
        draft.discard(&files, "web").await.unwrap();
        assert!(draft.archive(&files, "web").is_err());
        draft.directory = Some("relative".into());
        assert!(draft.begin(&files, "web").await.is_err());
        for name in ["", "..", "../x", "a/b", "/etc"] {
            draft = CheckpointDraft {
                name: name.to_owned(),
                ..CheckpointDraft::default()
            };
            assert!(draft.begin(&files, "web").await.is_err(), "{name:?}");
        }
    }

    #[tokio::test]
    async fn what_was_cut_short_is_taken_back_wherever_it_was_made() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "c1");
        files.create().unwrap();
        for directory in [None, Some(elsewhere.path().to_owned())] {
            let draft = CheckpointDraft {
                name: "one".to_owned(),
                directory,
                ends: false,
            };
            let archive = draft.begin(&files, "web").await.unwrap();
            fs::write(archive.with_file_name(".part"), "half").unwrap();
            take_back(&files).await.unwrap();
            let parent = draft.parent(&files).unwrap();
            assert_eq!(fs::read_dir(parent).unwrap().count(), 0);
            assert!(!files.dir().join(NOTE).exists());
            take_back(&files).await.unwrap();
        }
    }
}
