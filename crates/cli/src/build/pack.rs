//! A directory as the archive that a build is sent, packed while it is sent. What `.dockerignore`
//! leaves out is not read. Owners are left out, as Docker's clients do.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use berth_ignore::Ignore;
use bytes::Bytes;
use tar::{Builder, EntryType, Header};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use crate::error::{Error, Result};

/// Bytes of a piece, and pieces between the side that packs and the side that sends.
const PIECE: usize = 64 << 10;
const PIECES: usize = 8;

/// What is packed.
#[derive(Debug, Default)]
pub struct Tree {
    /// Empty where there is no directory.
    pub root: PathBuf,
    pub ignore: Ignore,
    /// Names that are not left out.
    pub always: Vec<String>,
    /// What is sent along, by name.
    pub members: Vec<(String, Vec<u8>)>,
}

/// The side that packs.
#[derive(Debug)]
pub struct Packing(Option<JoinHandle<Result<()>>>);

impl Packing {
    pub fn none() -> Self {
        Self(None)
    }

    /// How it ended, where that was not the fault of who reads.
    pub async fn outcome(self) -> Result<()> {
        let Some(task) = self.0 else {
            return Ok(());
        };
        match task.await {
            Ok(Err(Error::Stream(_))) | Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Failed("packing the context broke off".to_owned())),
        }
    }
}

/// Packs in the background. Where that fails the reader does too: half an archive is never taken
/// for a whole one.
pub fn start(tree: Tree) -> (impl AsyncRead + Send + 'static, Packing) {
    stream(move |sink| pack(&tree, sink))
}

/// What is written in the background, to be read meanwhile.
pub fn stream(
    write: impl FnOnce(BufWriter<Pieces>) -> Result<()> + Send + 'static,
) -> (impl AsyncRead + Send + 'static, Packing) {
    let (pieces, received) = mpsc::channel(PIECES);
    let task = tokio::task::spawn_blocking(move || {
        let sink = BufWriter::with_capacity(PIECE, Pieces(pieces.clone()));
        let packed = write(sink);
        if packed.is_err() {
            let _gone = pieces.blocking_send(Err(io::Error::other("packing failed")));
        }
        packed
    });
    let reader = StreamReader::new(ReceiverStream::new(received));
    (reader, Packing(Some(task)))
}

/// The side that is written to.
#[derive(Debug)]
pub struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pack(tree: &Tree, to: impl Write) -> Result<()> {
    let mut builder = Builder::new(to);
    for (name, text) in &tree.members {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        root_owns(&mut header);
        header.set_mtime(0);
        header.set_size(text.len() as u64);
        let appended = builder.append_data(&mut header, name, text.as_slice());
        appended.map_err(Error::Stream)?;
    }
    if !tree.root.as_os_str().is_empty() {
        add_all(&mut builder, tree, Path::new(""))?;
    }
    builder
        .into_inner()
        .and_then(|mut to| to.flush())
        .map_err(Error::Stream)
}

/// What is in a directory, by name.
fn add_all(builder: &mut Builder<impl Write>, tree: &Tree, directory: &Path) -> Result<()> {
    let path = tree.root.join(directory);
    let mut names: Vec<_> = fs::read_dir(&path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(Error::file("listing", &path))?;
    names.sort();
    names
        .into_iter()
        .try_for_each(|name| add(builder, tree, &directory.join(name)))
}

fn add(builder: &mut Builder<impl Write>, tree: &Tree, name: &Path) -> Result<()> {
    let text = name.to_string_lossy();
    let is_kept = tree.always.iter().any(|always| *always == text);
    let is_out = !is_kept && text != ".dockerignore" && tree.ignore.excludes(&text);
    let path = tree.root.join(name);
    if is_out && !tree.ignore.has_exceptions() && !holds(&tree.always, &text) {
        return Ok(());
    }
    let found = fs::symlink_metadata(&path).map_err(Error::file("looking at", &path))?;
    let kind = found.file_type();
    if !is_out {
        append(builder, &path, name, &found)?;
    }
    match kind.is_dir() {
        true => add_all(builder, tree, name),
        false => Ok(()),
    }
}

/// One file, link or directory without what is in it.
pub fn append(
    builder: &mut Builder<impl Write>,
    path: &Path,
    name: &Path,
    found: &fs::Metadata,
) -> Result<()> {
    let kind = found.file_type();
    if kind.is_dir() {
        let mut header = header(found, EntryType::Directory);
        let mut named = name.as_os_str().to_owned();
        named.push("/");
        let appended = builder.append_data(&mut header, named, io::empty());
        return appended.map_err(Error::Stream);
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(Error::file("reading the link", path))?;
        let mut header = header(found, EntryType::Symlink);
        let appended = builder.append_link(&mut header, name, target);
        return appended.map_err(Error::Stream);
    }
    if !kind.is_file() {
        // Sockets, pipes and devices mean nothing elsewhere.
        return Ok(());
    }
    let file = File::open(path).map_err(Error::file("opening", path))?;
    let mut header = header(found, EntryType::Regular);
    header.set_size(found.len());
    let mut content = Whole {
        file,
        left: found.len(),
        failed: None,
    };
    let appended = builder.append_data(&mut header, name, &mut content);
    match content.failed {
        Some(source) => Err(Error::file("reading", path)(source)),
        None => appended.map_err(Error::Stream),
    }
}

/// Whether a directory has one of `always` in it.
fn holds(always: &[String], directory: &str) -> bool {
    let below = format!("{directory}/");
    always.iter().any(|name| name.starts_with(&below))
}

/// An owner that is left out is no number to strict readers.
fn root_owns(header: &mut Header) {
    header.set_uid(0);
    header.set_gid(0);
}

fn header(found: &fs::Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    root_owns(&mut header);
    header.set_mode(found.mode() & 0o7777);
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

/// A file of so many bytes: no more are read, and fewer are an error.
struct Whole {
    file: File,
    left: u64,
    failed: Option<io::Error>,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        let wanted = wanted.min(buffer.len());
        let read = match wanted {
            0 => return Ok(0),
            wanted => self.file.read(buffer.get_mut(..wanted).unwrap_or_default()),
        };
        let problem = match read {
            Ok(0) => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it became shorter while it was read",
            ),
            Ok(count) => {
                self.left -= count as u64;
                return Ok(count);
            }
            Err(error) => error,
        };
        let kind = problem.kind();
        self.failed = Some(problem);
        Err(kind.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tokio::io::AsyncReadExt;

    fn tree(root: &Path, ignore: &str) -> Tree {
        Tree {
            root: root.to_owned(),
            ignore: Ignore::parse(ignore).unwrap(),
            always: vec!["Dockerfile".into(), "sub/File".into()],
            members: vec![("beside".into(), b"text".to_vec())],
        }
    }

    fn entries(tree: &Tree) -> Vec<String> {
        let mut archive = Vec::new();
        pack(tree, &mut archive).unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
                entry.path().unwrap().display().to_string()
            })
            .collect()
    }

    #[test]
    fn what_is_left_out_is_not_packed() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        fs::create_dir_all(root.join("sub/deep")).unwrap();
        for name in [
            "Dockerfile",
            ".dockerignore",
            "a",
            "b.log",
            "sub/File",
            "sub/deep/x",
        ] {
            fs::write(root.join(name), name).unwrap();
        }
        symlink("nowhere", root.join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let all = entries(&tree(root, ""));
        assert_eq!(
            all,
            [
                "beside",
                ".dockerignore",
                "Dockerfile",
                "a",
                "b.log",
                "link",
                "sub/",
                "sub/File",
                "sub/deep/",
                "sub/deep/x"
            ]
        );
        let few = entries(&tree(root, "**/*.log\nDockerfile\n.dockerignore\nsub\n"));
        assert_eq!(
            few,
            [
                "beside",
                ".dockerignore",
                "Dockerfile",
                "a",
                "link",
                "sub/File"
            ]
        );
        let kept = entries(&tree(root, "*\n!sub/deep"));
        assert_eq!(
            kept,
            [
                "beside",
                ".dockerignore",
                "Dockerfile",
                "sub/File",
                "sub/deep/",
                "sub/deep/x"
            ]
        );
    }

    #[tokio::test]
    async fn what_cannot_be_read_ends_the_archive_with_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        fs::write(root.join("a"), vec![0; 300_000]).unwrap();
        let (mut reader, packing) = start(tree(&root.join("none"), ""));
        let mut all = Vec::new();
        assert!(reader.read_to_end(&mut all).await.is_err());
        let told = packing.outcome().await.unwrap_err().report();
        assert!(told.contains("listing") && told.contains("none"), "{told}");
        let (mut reader, packing) = start(tree(root, ""));
        reader.read_to_end(&mut all).await.unwrap();
        packing.outcome().await.unwrap();
        // Who does not read to the end is no failure of who packs.
        let (reader, packing) = start(tree(root, ""));
        drop(reader);
        packing.outcome().await.unwrap();
    }
}
