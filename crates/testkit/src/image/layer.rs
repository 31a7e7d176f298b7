//! The tree of one layer and its archive.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

use berth_names::Digest;
use flate2::GzBuilder;

use super::{Error, Result, libraries, tar};

/// A tree of files. Paths are absolute inside the image, parents appear by
/// themselves (0755, root), and a later entry replaces an earlier one.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
}

#[derive(Debug, Clone)]
enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    HardLink(String),
}

/// How the archive of a layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
}

/// A layer as a registry keeps it.
#[derive(Debug, Clone)]
pub struct PackedLayer {
    /// Digest of the plain archive.
    pub diff_id: Digest,
    /// Digest of `bytes`.
    pub digest: Digest,
    pub compression: Compression,
    pub bytes: Vec<u8>,
}

impl Layer {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.with(path, mode, Kind::Directory)
    }

    /// Adds a file; `mode` may carry setuid, setgid and sticky bits.
    pub fn file(self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.with(path, mode, Kind::File(content.into()))
    }

    /// Adds a symbolic link with `target` as its text.
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.with(path, 0o777, Kind::Symlink(target.to_owned()))
    }

    /// Adds a second name of a file of this layer.
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.with(path, 0o755, Kind::HardLink(key(target)))
    }

    /// Hides what a lower layer has at this path.
    pub fn whiteout(self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.file(&format!("{parent}/.wh.{name}"), 0o644, Vec::new())
    }

    /// Gives the entry that was added at `path` to a user and a group.
    pub fn owned(mut self, path: &str, uid: u32, gid: u32) -> Self {
        if let Some(entry) = self.entries.get_mut(&key(path)) {
            (entry.uid, entry.gid) = (uid, gid);
        }
        self
    }

    /// Copies a file or a whole directory of this machine, owned by root.
    /// A symbolic link at `host` itself is followed, those below are kept.
    pub fn copy(self, host: &Path, path: &str) -> Result<Self> {
        let metadata = fs::metadata(host).map_err(|source| read_error(host, source))?;
        self.copy_entry(host, path, &metadata)
    }

    /// Copies a program with its libraries and loader, which keep their paths.
    pub fn program(self, host: &Path, path: &str) -> Result<Self> {
        libraries::of(host)?
            .iter()
            .try_fold(self.copy(host, path)?, |layer, library| {
                layer.copy(library, &library.to_string_lossy())
            })
    }

    /// The archive and its digests.
    pub fn pack(&self, compression: Compression) -> Result<PackedLayer> {
        let archive = self.archive()?;
        let diff_id = Digest::sha256_of(&archive);
        let bytes = match compression {
            Compression::Plain => archive,
            Compression::Gzip => gzip(&archive).map_err(Error::Compress)?,
        };
        Ok(PackedLayer {
            diff_id,
            digest: Digest::sha256_of(&bytes),
            compression,
            bytes,
        })
    }

    fn with(mut self, path: &str, mode: u32, kind: Kind) -> Self {
        let path = key(path);
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry {
                kind: Kind::Directory,
                mode: 0o755,
                uid: 0,
                gid: 0,
            });
        }
        self.entries.insert(
            path,
            Entry {
                kind,
                mode,
                uid: 0,
                gid: 0,
            },
        );
        self
    }

    fn copy_entry(self, host: &Path, path: &str, metadata: &fs::Metadata) -> Result<Self> {
        let mode = metadata.mode() & 0o7777;
        let file_type = metadata.file_type();
        if file_type.is_file() {
            let content = fs::read(host).map_err(|source| read_error(host, source))?;
            Ok(self.file(path, mode, content))
        } else if file_type.is_symlink() {
            let target = fs::read_link(host).map_err(|source| read_error(host, source))?;
            Ok(self.symlink(path, &target.to_string_lossy()))
        } else if file_type.is_dir() {
            let mut layer = self.directory(path, mode);
            for entry in fs::read_dir(host).map_err(|source| read_error(host, source))? {
                let entry = entry.map_err(|source| read_error(host, source))?;
                let below = format!("{path}/{}", entry.file_name().to_string_lossy());
                let metadata = entry
                    .metadata()
                    .map_err(|source| read_error(&entry.path(), source))?;
                layer = layer.copy_entry(&entry.path(), &below, &metadata)?;
            }
            Ok(layer)
        } else {
            Err(Error::UnfitFile {
                path: host.to_owned(),
            })
        }
    }

    /// Hard links come last: a reader must know the file before its second name.
    fn archive(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let (links, rest): (Vec<_>, Vec<_>) = self
            .entries
            .iter()
            .partition(|(_, entry)| matches!(entry.kind, Kind::HardLink(_)));
        for (path, entry) in rest.into_iter().chain(links) {
            self.write_entry(&mut out, path, entry)?;
        }
        tar::write_end(&mut out).map_err(Error::Compress)?;
        Ok(out)
    }

    fn write_entry(&self, out: &mut Vec<u8>, path: &str, entry: &Entry) -> Result<()> {
        let directory = format!("{path}/");
        let (kind, path, link, content): (_, _, &str, &[u8]) = match &entry.kind {
            Kind::Directory => (tar::DIRECTORY, directory.as_str(), "", &[]),
            Kind::File(content) => (tar::FILE, path, "", content),
            Kind::Symlink(target) => (tar::SYMLINK, path, target, &[]),
            Kind::HardLink(target) => {
                if !matches!(
                    self.entries.get(target).map(|e| &e.kind),
                    Some(Kind::File(_))
                ) {
                    let (path, target) = (path.to_owned(), target.clone());
                    return Err(Error::DanglingLink { path, target });
                }
                (tar::HARD_LINK, path, target, &[])
            }
        };
        let Entry { mode, uid, gid, .. } = *entry;
        let header = tar::Header {
            path,
            link,
            kind,
            mode,
            uid,
            gid,
        };
        tar::write_entry(out, &header, content).map_err(Error::Compress)
    }
}

/// `/usr//bin/` and `usr/bin` are the same place.
fn key(path: &str) -> String {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect::<Vec<_>>()
        .join("/")
}

fn read_error(path: &Path, source: io::Error) -> Error {
    Error::Read {
        path: path.to_owned(),
        source,
    }
}

fn gzip(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), flate2::Compression::fast());
    encoder.write_all(archive)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Layer {
        let long = format!("/opt/{}/{}", "d".repeat(90), "f".repeat(90));
        Layer::new()
            .file("/bin/first", 0o4755, "content")
            .hard_link("/a-link", "/bin/first")
            .symlink("/bin/second", "first")
            .file(&long, 0o600, vec![b'x'; 1000])
            .directory("/tmp", 0o1777)
            .owned("/tmp", 7, 9)
    }

    #[test]
    fn same_tree_gives_same_digests() {
        let first = sample().pack(Compression::Gzip).unwrap();
        let second = sample().pack(Compression::Gzip).unwrap();
        assert_eq!(
            (first.digest, first.diff_id.clone()),
            (second.digest, second.diff_id)
        );
        assert_eq!(
            first.diff_id,
            sample().pack(Compression::Plain).unwrap().digest
        );
    }

    #[test]
    fn other_tar_programs_read_the_archive() {
        let bytes = sample().pack(Compression::Gzip).unwrap().bytes;
        let tar = Command::new("tar")
            .args(["tvzf", "-", "--numeric-owner"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut tar) = tar else {
            eprintln!("skipped: needs the tar program");
            return;
        };
        tar.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = tar.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        for expected in [
            "drwxr-xr-x 0/0",
            "-rwsr-xr-x 0/0",
            "drwxrwxrwt 7/9",
            "bin/second -> first",
            "a-link link to bin/first",
            &format!("{}/{}", "d".repeat(90), "f".repeat(90)),
        ] {
            assert!(listing.contains(expected), "{expected} in\n{listing}");
        }
    }

    #[test]
    fn hard_link_to_nothing_is_refused() {
        for layer in [
            Layer::new().hard_link("/a", "/b"),
            Layer::new().directory("/b", 0o755).hard_link("/a", "/b"),
        ] {
            assert!(matches!(
                layer.pack(Compression::Plain).unwrap_err(),
                Error::DanglingLink { .. }
            ));
        }
    }

    #[test]
    fn whiteout_lies_beside_what_it_hides() {
        let layer = Layer::new().whiteout("/etc/passwd");
        assert!(layer.entries.contains_key("etc/.wh.passwd"));
    }
}
