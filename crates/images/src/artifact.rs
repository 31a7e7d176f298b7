//! OCI artifacts: manifests whose config is no container image (OCI image-spec, "Guidelines for
//! Artifact Usage").
//!
//! An artifact becomes one layer that holds a file for each of its blobs, named by the blob's
//! title. From there on it is kept, viewed and collected as an image is. The files are hard links
//! to the blobs, so that a model of many gigabytes is on disk once.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::Arc;

use berth_names::{ChainId, Digest};
use berth_registry::media_type::OCI_MANIFEST;
use berth_snapshots::LayerInfo;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::images::blocking;
use crate::manifest::{self, CONFIG_TYPES, Descriptor};
use crate::pull::{Pull, settle};
use crate::{Error, Result, layer};

/// Where tools such as ORAS write the name of a blob's file.
const TITLE: &str = "org.opencontainers.image.title";
/// Stands for nothing where a manifest must not have an empty list.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// Each costs a transfer and a link.
const MAX_FILES: usize = 4096;
/// Bytes of a whole path and of one name in it.
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

/// An artifact, as its manifest tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Artifact {
    /// Its type, for people.
    pub kind: String,
    /// Sorted by path; no path is given twice or leads through another.
    pub files: Vec<ArtifactFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ArtifactFile {
    /// Relative, of plain names.
    pub path: String,
    pub blob: Descriptor,
}

/// Reads a manifest as an artifact's; `None` if it is not one.
pub(crate) fn read(digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<Option<Artifact>> {
    const MANIFEST: &str = "manifest";
    if media_type != OCI_MANIFEST {
        return Ok(None);
    }
    let document = manifest::parse(MANIFEST, digest, media_type, bytes)?;
    let config = document.config.as_ref();
    let config_type = config.and_then(|config| config.media_type.as_deref());
    let config_type = config_type.unwrap_or_default();
    if config_type.is_empty() || CONFIG_TYPES.contains(&config_type) {
        return Ok(None);
    }
    let invalid = |field: &str, problem: String| Error::invalid(MANIFEST, digest, field, problem);
    let declared = document.artifact_type.as_deref().unwrap_or_default();
    let kind = [declared, config_type]
        .into_iter()
        .find(|kind| !kind.is_empty());
    let layers = document.layers.unwrap_or_default();
    if layers.len() > MAX_FILES {
        let problem = format!("{} are more than {MAX_FILES}", layers.len());
        return Err(invalid("layers", problem));
    }
    let mut files = Vec::with_capacity(layers.len());
    for (number, raw) in layers.into_iter().enumerate() {
        let field = format!("layers[{number}]");
        let title = raw.annotation(TITLE).map(str::to_owned);
        let blob = manifest::descriptor(MANIFEST, digest, &field, raw)?;
        let path = match title {
            None if blob.media_type == EMPTY_TYPE => continue,
            // What other tools call a blob without a name.
            None => blob.digest.to_string().replace(':', "-"),
            Some(title) => file_path(&title)
                .map_err(|problem| invalid(&format!("{field}.annotations.{TITLE}"), problem))?,
        };
        files.push(ArtifactFile { path, blob });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    distinct(&files).map_err(|problem| invalid("layers", problem))?;
    Ok(Some(Artifact {
        kind: manifest::clip(kind.unwrap_or_default()).to_owned(),
        files,
    }))
}

/// A title is written by whoever made the artifact: it must stay below the artifact's root.
fn file_path(title: &str) -> Result<String, String> {
    let shown = manifest::clip(title);
    if title.len() > MAX_PATH || title.contains('\0') {
        return Err(format!("{shown:?} is not a path"));
    }
    let mut names = Vec::new();
    for component in Path::new(title).components() {
        match component {
            Component::Normal(name) if name.len() <= MAX_NAME => {
                names.push(name.to_string_lossy().into_owned());
            }
            Component::CurDir => {}
            _ => return Err(format!("{shown:?} is not a path inside the artifact")),
        }
    }
    if names.is_empty() {
        return Err(format!("{shown:?} names no file"));
    }
    Ok(names.join("/"))
}

fn distinct(files: &[ArtifactFile]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for file in files {
        if !seen.insert(file.path.as_str()) {
            return Err(format!(
                "{:?} is the title of two",
                manifest::clip(&file.path)
            ));
        }
    }
    for file in files {
        let mut above = Path::new(&file.path).ancestors().skip(1);
        if above.any(|path| path.to_str().is_some_and(|path| seen.contains(path))) {
            let shown = manifest::clip(&file.path);
            return Err(format!("{shown:?} leads through another file"));
        }
    }
    Ok(())
}

impl Artifact {
    /// Identity of the layer with these files: of names and contents, whatever manifest they are
    /// in.
    pub(crate) fn diff_id(&self) -> Digest {
        let mut text = String::from("artifact\n");
        for file in &self.files {
            text.push_str(&format!("{} {}\n", file.blob.digest, file.path));
        }
        Digest::sha256_of(text.as_bytes())
    }

    pub(crate) fn chain_id(&self) -> ChainId {
        ChainId::of(None, &self.diff_id())
    }
}

/// Sees to it that the artifact's layer is there, and says whether it had to be made.
pub(crate) async fn obtain(
    pull: &Arc<Pull>,
    artifact: Artifact,
    cancel: &CancellationToken,
) -> Result<bool> {
    let chain = artifact.chain_id();
    let _layer = pull
        .unless(cancel, pull.shared.layers.lock(chain.clone()))
        .await?;
    if layer::has_layer(pull, &chain).await? {
        return Ok(false);
    }
    let mut blobs: Vec<Descriptor> = artifact.files.iter().map(|f| f.blob.clone()).collect();
    blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    let stop = cancel.child_token();
    let mut jobs = JoinSet::new();
    for blob in blobs {
        let work = fetch(Arc::clone(pull), blob, stop.clone());
        jobs.spawn(work.in_current_span());
    }
    settle(jobs, &stop).await?;
    let pull = Arc::clone(pull);
    blocking("assemble an artifact", move || assemble(&pull, &artifact)).await?;
    Ok(true)
}

/// Sees to it that a blob is there, and says whether it had to be fetched.
async fn fetch(pull: Arc<Pull>, blob: Descriptor, cancel: CancellationToken) -> Result<bool> {
    let shared = Arc::clone(&pull.shared);
    let _blob = pull
        .unless(&cancel, shared.blobs.lock(blob.digest.clone()))
        .await?;
    let _permit = pull.unless(&cancel, shared.permits.acquire()).await?;
    if layer::has_blob(&pull, &blob).await? {
        return Ok(false);
    }
    layer::fetch(&pull, &blob, &cancel).await?;
    Ok(true)
}

/// Puts the files in a layer of their own and makes it visible.
fn assemble(pull: &Pull, artifact: &Artifact) -> Result<()> {
    let chain = artifact.chain_id();
    let snapshotter = &pull.shared.snapshotter;
    let draft = snapshotter
        .begin_layer(&chain, None)
        .map_err(Error::layer("begin", &chain))?;
    let mut info = LayerInfo {
        diff_id: artifact.diff_id(),
        size: 0,
        inodes: 1,
    };
    for file in &artifact.files {
        let blob = pull.shared.content.path(&file.blob.digest);
        let placed =
            place(&blob, draft.dir_fd(), &file.path).map_err(|source| Error::Artifact {
                path: file.path.clone(),
                source,
            })?;
        if let Placed::Copied(bytes) = placed {
            info.size += bytes;
        }
        info.inodes += 1;
    }
    snapshotter
        .commit(draft, info)
        .map_err(Error::layer("commit", &chain))
}

enum Placed {
    /// Takes nothing beside the blob.
    Linked,
    Copied(u64),
}

fn place(blob: &Path, root: BorrowedFd<'_>, path: &str) -> std::io::Result<Placed> {
    let (directories, name) = match path.rsplit_once('/') {
        Some((directories, name)) => (directories.split('/').collect(), name),
        None => (Vec::new(), path),
    };
    let mut parent: Option<OwnedFd> = None;
    for directory in directories {
        let here = parent.as_ref().map_or(root, AsFd::as_fd);
        parent = Some(enter(here, directory)?);
    }
    let parent = parent.as_ref().map_or(root, AsFd::as_fd);
    let placed = match rustix::fs::linkat(CWD, blob, parent, name, AtFlags::empty()) {
        Ok(()) => Placed::Linked,
        // Another filesystem, or more names than this one can keep of a file.
        Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let copy = rustix::fs::openat(parent, name, flags, Mode::RUSR)?;
            let bytes = std::io::copy(&mut fs::File::open(blob)?, &mut fs::File::from(copy))?;
            Placed::Copied(bytes)
        }
        Err(errno) => return Err(errno.into()),
    };
    // For every user of a container; no user of the host gets as far as the directories above.
    let mode = Mode::from_raw_mode(0o444);
    rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
    Ok(placed)
}

fn enter(parent: BorrowedFd<'_>, name: &str) -> std::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn blob(text: &str, title: Option<&str>) -> Value {
        let mut blob = json!({
            "mediaType": "application/octet-stream",
            "digest": Digest::sha256_of(text.as_bytes()),
            "size": text.len(),
        });
        if let Some(title) = title {
            blob["annotations"] = json!({ TITLE: title });
        }
        blob
    }

    fn parsed(config: &str, layers: &[Value]) -> Result<Option<Artifact>> {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/vnd.example.model",
            "config": { "mediaType": config, "digest": Digest::sha256_of(b"{}"), "size": 2 },
            "layers": layers,
        });
        let bytes = manifest.to_string().into_bytes();
        read(&Digest::sha256_of(&bytes), OCI_MANIFEST, &bytes)
    }

    fn paths(layers: &[Value]) -> Result<Vec<String>> {
        let artifact = parsed(EMPTY_TYPE, layers)?.unwrap();
        Ok(artifact.files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn only_what_is_no_image_is_an_artifact() {
        assert_eq!(parsed(CONFIG_TYPES[0], &[]).unwrap(), None);
        assert_eq!(parsed("", &[]).unwrap(), None);
        let artifact = parsed("application/vnd.example.config", &[])
            .unwrap()
            .unwrap();
        assert_eq!(artifact.kind, "application/vnd.example.model");
    }

    #[test]
    fn blobs_become_files_by_their_titles() {
        let mut empty = blob("{}", None);
        empty["mediaType"] = json!(EMPTY_TYPE);
        let layers = [
            blob("b", Some("./weights/b.bin")),
            blob("a", Some("model.json")),
            blob("c", None),
            empty,
        ];
        let unnamed = Digest::sha256_of(b"c").to_string().replace(':', "-");
        let mut expected = vec![unnamed, "model.json".into(), "weights/b.bin".into()];
        expected.sort();
        assert_eq!(paths(&layers).unwrap(), expected);
    }

    #[test]
    fn titles_that_lead_out_or_clash_are_refused() {
        let long = "n".repeat(MAX_NAME + 1);
        for bad in ["/etc/passwd", "../x", "a/../../x", "", ".", "a\0b", &long] {
            let refused = paths(&[blob("a", Some(bad))]).unwrap_err();
            assert_eq!(refused.kind(), crate::ErrorKind::Invalid, "{bad:?}");
        }
        let clash = [blob("a", Some("x")), blob("b", Some("./x"))];
        assert!(paths(&clash).is_err());
        let through = [blob("a", Some("x")), blob("b", Some("x/y"))];
        assert!(paths(&through).is_err());
        let beside = [blob("a", Some("x")), blob("b", Some("x-y"))];
        assert!(paths(&beside).is_ok());
    }

    #[test]
    fn a_layer_is_known_by_names_and_contents() {
        let chain = |layers: &[Value]| parsed(EMPTY_TYPE, layers).unwrap().unwrap().chain_id();
        let one = chain(&[blob("a", Some("x")), blob("b", Some("y"))]);
        assert_eq!(one, chain(&[blob("b", Some("y")), blob("a", Some("x"))]));
        assert_ne!(one, chain(&[blob("b", Some("x")), blob("a", Some("y"))]));
    }
}
