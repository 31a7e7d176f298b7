//! Where files are copied from: the context that a client sent, or the root of an image. Neither is
//! ever changed by what is done here, and no path leads out of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use berth_names::Digest;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use tar::EntryType;

use crate::compressed;
use crate::error::{Error, Result};
use crate::ignore::{Ignore, clean};
use crate::layer::Attributes;

/// Links that lead to links.
const MAX_HOPS: usize = 40;
/// Members of a context; each costs memory.
const MAX_MEMBERS: usize = 4_000_000;
const MAX_XATTR: usize = 64 << 10;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: NodeKind,
    pub attributes: Attributes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    Directory,
    File {
        size: u64,
    },
    Symlink(Vec<u8>),
    /// Devices, pipes and sockets.
    Other(FileType, u64),
}

/// A tree to copy from. Paths are relative to its root, without `.` and `..`; the root is empty.
pub trait Tree {
    /// Links are not followed.
    fn node(&self, path: &str) -> Result<Option<Node>>;
    /// Names in a directory, sorted.
    fn list(&self, directory: &str) -> Result<Vec<String>>;
    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>>;

    /// Where a path leads when every link in it, and at its end, is followed within the tree.
    /// What is not there is added as it is.
    fn resolve(&self, path: &str) -> Result<String> {
        let mut left: Vec<String> = clean(path).split('/').rev().map(str::to_owned).collect();
        let mut found: Vec<String> = Vec::new();
        let mut hops = 0;
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    found.pop();
                    continue;
                }
                _ => found.push(part),
            }
            let here = found.join("/");
            let Some(NodeKind::Symlink(target)) = self.node(&here)?.map(|node| node.kind) else {
                continue;
            };
            hops += 1;
            if hops > MAX_HOPS {
                return Err(Error::invalid(format!(
                    "{path}: too many levels of symbolic links"
                )));
            }
            found.pop();
            let target = String::from_utf8_lossy(&target).into_owned();
            if target.starts_with('/') {
                found.clear();
            }
            left.extend(target.split('/').rev().map(str::to_owned));
        }
        Ok(found.join("/"))
    }
}

/// The files of a client, in the archive that it sent: nothing is unpacked.
#[derive(Debug)]
pub struct Context {
    file: Arc<File>,
    members: BTreeMap<String, Member>,
}

#[derive(Debug, Clone)]
struct Member {
    node: Node,
    /// Of a file's bytes in the archive.
    offset: u64,
}

impl Context {
    /// Reads an archive, which may be compressed: then it is written uncompressed to `spool`.
    /// Blocking.
    ///
    /// # Errors
    /// If it is no archive.
    pub fn read(file: File, spool: impl FnOnce() -> Result<File>) -> Result<Self> {
        let file = plain(file, spool)?;
        (&file).seek(SeekFrom::Start(0)).map_err(Error::Context)?;
        let mut archive = tar::Archive::new(&file);
        let mut members: BTreeMap<String, Member> = BTreeMap::new();
        let entries = archive.entries_with_seek().map_err(Error::Context)?;
        for entry in entries {
            let mut entry = entry.map_err(Error::Context)?;
            if members.len() >= MAX_MEMBERS {
                let what = format!("the context has more than {MAX_MEMBERS} files");
                return Err(Error::invalid(what + ": leave some out in .dockerignore"));
            }
            let path = clean(&String::from_utf8_lossy(&entry.path_bytes()));
            let target = entry.link_name_bytes().map(|name| name.into_owned());
            if let Some(member) = member(&mut entry, &members, target)? {
                members.insert(path, member);
            }
        }
        Ok(Self {
            file: Arc::new(file),
            members,
        })
    }

    /// One without files.
    pub fn empty(file: File) -> Self {
        Self {
            file: Arc::new(file),
            members: BTreeMap::new(),
        }
    }

    /// Takes out what `.dockerignore` says, whether the client heeded it or not.
    pub fn leave_out(&mut self, ignore: &Ignore) {
        if !ignore.is_empty() {
            self.members.retain(|path, _| !ignore.excludes(path));
        }
    }

    /// Takes out one member.
    pub fn take_out(&mut self, path: &str) {
        self.members.remove(&clean(path));
    }

    /// The whole text of a file, if it is there.
    pub fn text(&self, path: &str, limit: usize) -> Result<Option<String>> {
        let path = self.resolve(path)?;
        let Some(NodeKind::File { size }) = self.node(&path)?.map(|node| node.kind) else {
            return Ok(None);
        };
        if size > limit as u64 {
            let what = format!("{path} is larger than {limit} bytes");
            return Err(Error::invalid(what));
        }
        let mut bytes = Vec::new();
        self.open(&path)?
            .read_to_end(&mut bytes)
            .map_err(Error::Context)?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Error::invalid(format!("{path} is no text in UTF-8"))),
        }
    }
}

/// The archive without compression.
fn plain(file: File, spool: impl FnOnce() -> Result<File>) -> Result<File> {
    let mut begin = [0; 6];
    let count = file.read_at(&mut begin, 0).map_err(Error::Context)?;
    if !compressed::is_compressed(begin.get(..count).unwrap_or_default()) {
        return Ok(file);
    }
    (&file).seek(SeekFrom::Start(0)).map_err(Error::Context)?;
    let mut contents = compressed::plain(file).map_err(Error::Context)?;
    let mut unpacked = spool()?;
    io::copy(&mut contents, &mut unpacked).map_err(Error::Context)?;
    unpacked.flush().map_err(Error::Context)?;
    Ok(unpacked)
}

fn member<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    members: &BTreeMap<String, Member>,
    target: Option<Vec<u8>>,
) -> Result<Option<Member>> {
    let header = entry.header().clone();
    let target = target.unwrap_or_default();
    let kind = match header.entry_type() {
        EntryType::Directory => NodeKind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            NodeKind::File { size: entry.size() }
        }
        EntryType::Symlink => NodeKind::Symlink(target),
        EntryType::Link => {
            let path = clean(&String::from_utf8_lossy(&target));
            return Ok(members.get(&path).cloned());
        }
        // Sockets and devices of a client mean nothing here.
        _ => return Ok(None),
    };
    let number = |field: io::Result<u64>| field.map_err(Error::Context);
    let attributes = Attributes {
        mode: header.mode().map_err(Error::Context)? & 0o7777,
        uid: 0,
        gid: 0,
        mtime: number(header.mtime())?,
        xattrs: Vec::new(),
    };
    Ok(Some(Member {
        node: Node { kind, attributes },
        offset: entry.raw_file_position(),
    }))
}

impl Tree for Context {
    fn node(&self, path: &str) -> Result<Option<Node>> {
        if let Some(member) = self.members.get(path) {
            return Ok(Some(member.node.clone()));
        }
        // A directory need not be named by an archive that has something in it.
        let below = match path {
            "" => String::new(),
            path => format!("{path}/"),
        };
        let mut after = self.members.range(below.clone()..);
        let is_directory = path.is_empty()
            || after
                .next()
                .is_some_and(|(name, _)| name.starts_with(&below));
        Ok(is_directory.then(|| Node {
            kind: NodeKind::Directory,
            attributes: Attributes {
                mode: 0o755,
                ..Attributes::default()
            },
        }))
    }

    fn list(&self, directory: &str) -> Result<Vec<String>> {
        let below = match directory {
            "" => String::new(),
            directory => format!("{directory}/"),
        };
        let mut names: Vec<String> = Vec::new();
        for (path, _) in self.members.range(below.clone()..) {
            let Some(rest) = path.strip_prefix(&below) else {
                break;
            };
            let name = rest.split('/').next().unwrap_or_default();
            if !name.is_empty() && names.last().is_none_or(|last| last != name) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        let member = self.members.get(path);
        match member.map(|member| (&member.node.kind, member.offset)) {
            Some((NodeKind::File { size }, offset)) => Ok(Box::new(Part {
                file: &self.file,
                offset,
                left: *size,
            })),
            _ => Err(Error::invalid(format!("{path} is no file"))),
        }
    }
}

/// Bytes of a file, read at their place.
struct Part<'f> {
    file: &'f File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// The root of an image, which is read only and nobody else's.
pub struct Root(pub OwnedFd);

impl Root {
    fn at(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        berth_kernel::open_without_links(&self.0, Path::new(path), flags | OFlags::NOFOLLOW)
    }

    fn failed(operation: &'static str, path: &str) -> impl FnOnce(Errno) -> Error {
        let path = format!("/{path}");
        move |errno| Error::file(operation, path)(errno.into())
    }
}

impl Tree for Root {
    fn node(&self, path: &str) -> Result<Option<Node>> {
        let found = match self.at(path, OFlags::PATH) {
            Ok(found) => found,
            // A link on the way is none of this path; who wants it followed resolves first.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => return Err(Self::failed("look at", path)(errno)),
        };
        node(&found)
            .map(Some)
            .map_err(Self::failed("look at", path))
    }

    fn list(&self, directory: &str) -> Result<Vec<String>> {
        let failed = || Self::failed("list", directory);
        let opened = self
            .at(directory, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(failed())?;
        let entries = rustix::fs::Dir::read_from(&opened).map_err(failed())?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = self.at(path, flags).map_err(Self::failed("open", path))?;
        Ok(Box::new(File::from(file)))
    }
}

/// What a descriptor, which may be of a path alone, stands for.
pub fn node(found: impl AsFd) -> rustix::io::Result<Node> {
    let stat = rustix::fs::fstat(&found)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => NodeKind::Directory,
        FileType::RegularFile => NodeKind::File {
            size: u64::try_from(stat.st_size).unwrap_or(0),
        },
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
            NodeKind::Symlink(target.into_bytes())
        }
        other => NodeKind::Other(other, stat.st_rdev),
    };
    let xattrs = match kind {
        NodeKind::Directory | NodeKind::File { .. } => xattrs(&found)?,
        _ => Vec::new(),
    };
    Ok(Node {
        kind,
        attributes: Attributes {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: u64::try_from(stat.st_mtime).unwrap_or(0),
            xattrs,
        },
    })
}

/// The attributes that belong into a layer: a user's, and capabilities.
fn xattrs(found: impl AsFd) -> rustix::io::Result<Vec<(String, Vec<u8>)>> {
    use std::os::fd::AsRawFd;
    // A descriptor of a path takes no fgetxattr(2); its name in /proc does.
    let path = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    let mut names = vec![0; MAX_XATTR];
    let count = match rustix::fs::listxattr(&path, &mut names) {
        Ok(count) => count,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    names.truncate(count);
    let mut all = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        let name = String::from_utf8_lossy(name).into_owned();
        if !name.starts_with("user.") && name != "security.capability" {
            continue;
        }
        let mut value = vec![0; MAX_XATTR];
        let count = rustix::fs::getxattr(&path, name.as_str(), &mut value)?;
        value.truncate(count);
        all.push((name, value));
    }
    all.sort();
    Ok(all)
}

/// An empty root: that of `FROM scratch`.
pub struct Nothing;

impl Tree for Nothing {
    fn node(&self, path: &str) -> Result<Option<Node>> {
        Ok(path.is_empty().then(|| Node {
            kind: NodeKind::Directory,
            attributes: Attributes {
                mode: 0o755,
                ..Attributes::default()
            },
        }))
    }

    fn list(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn open(&self, path: &str) -> Result<Box<dyn Read + '_>> {
        Err(Error::invalid(format!("{path} is not there")))
    }
}

/// The digest of what a tree has at `paths`, whatever the times: what a copy's result depends on.
pub fn digest(tree: &dyn Tree, paths: &[String]) -> Result<Digest> {
    let mut hash = Hash::default();
    for path in paths {
        add(tree, path, &mut hash)?;
    }
    Ok(hash.finish())
}

fn add(tree: &dyn Tree, path: &str, hash: &mut Hash) -> Result<()> {
    let Some(node) = tree.node(path)? else {
        return Ok(());
    };
    hash.field(path.as_bytes());
    let Attributes {
        mode,
        uid,
        gid,
        mtime: _,
        xattrs,
    } = &node.attributes;
    hash.field(format!("{mode:o} {uid} {gid}").as_bytes());
    for (name, value) in xattrs {
        hash.field(name.as_bytes());
        hash.field(value);
    }
    match &node.kind {
        NodeKind::Directory => {
            hash.field(b"directory");
            for name in tree.list(path)? {
                add(tree, &joined(path, &name), hash)?;
            }
        }
        NodeKind::File { size } => {
            hash.field(format!("file {size}").as_bytes());
            let mut content = tree.open(path)?;
            io::copy(&mut content, hash).map_err(Error::Context)?;
        }
        NodeKind::Symlink(target) => {
            hash.field(b"link");
            hash.field(target);
        }
        NodeKind::Other(kind, device) => hash.field(format!("{kind:?} {device}").as_bytes()),
    }
    Ok(())
}

/// A directory and a name in it.
pub fn joined(directory: &str, name: &str) -> String {
    match (directory, name) {
        ("", name) => name.to_owned(),
        (directory, "") => directory.to_owned(),
        (directory, name) => format!("{directory}/{name}"),
    }
}

/// Fields that cannot run into each other.
#[derive(Default)]
pub struct Hash(sha2::Sha256);

impl Hash {
    pub fn field(&mut self, bytes: &[u8]) {
        use sha2::Digest as _;
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        use sha2::Digest as _;
        Digest::from_sha256(self.0.finalize().into())
    }
}

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use sha2::Digest as _;
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
