//! Names and records of the store, reached through directory handles.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_names::{ChainId, Digest};
use serde::{Deserialize, Serialize};

use super::*;

/// Longest record that is read; ours have a few KiB at most (500 chain ids).
const MAX_RECORD: u64 = 1 << 20;

/// `layer.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    #[serde(flatten)]
    pub layer: Layer,
    /// Name of the draft that became this layer; distinguishes it from a later copy.
    pub instance: String,
    /// Boot in which it was committed.
    pub boot_id: String,
}

impl LayerRecord {
    /// Name of the marker in `durable/`.
    pub fn marker(&self) -> String {
        marker_name(&layer_name(&self.layer.id), &self.instance)
    }
}

pub(super) fn marker_name(layer: &str, instance: &str) -> String {
    format!("{layer}.{instance}")
}

/// Directory name of a layer: the hash alone if it is sha256, else with the algorithm.
pub(super) fn layer_name(id: &ChainId) -> String {
    let digest: &Digest = id.digest();
    match digest.algorithm().as_str() {
        "sha256" => digest.hex().to_owned(),
        other => format!("{other}-{}", digest.hex()),
    }
}

/// Keys become directory names, so they are ids: letters, digits, `_`, `.`, `-`.
pub(super) fn check_key(key: &str) -> Result<()> {
    let refuse = |reason| {
        Err(Error::InvalidKey {
            key: key.chars().take(160).collect(),
            reason,
        })
    };
    match key.as_bytes() {
        [] => refuse("it is empty"),
        [_, ..] if key.len() > 128 => refuse("it is longer than 128 bytes"),
        [first, ..] if !first.is_ascii_alphanumeric() => {
            refuse("it does not begin with a letter or digit")
        }
        all if !all
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b)) =>
        {
            refuse("only letters, digits, '_', '.' and '-' are allowed")
        }
        _ => Ok(()),
    }
}

/// A directory of the store: its handle, and its path for mount options and messages.
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Path of `name` within the directory, or of the directory itself for "".
    pub fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.path.clone()
        } else {
            self.path.join(name)
        }
    }

    /// Makes a private directory.
    pub fn make(&self, name: &str) -> Result<()> {
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU).attempt("creating", self.path(name))
    }

    /// Makes a directory of mode 0755, whatever the umask, and opens it.
    pub fn make_public(&self, name: &str) -> Result<OwnedFd> {
        self.make(name)?;
        let dir = self.open(name)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o755))
            .attempt("setting the mode of", self.path(name))?;
        Ok(dir)
    }

    pub fn open(&self, name: &str) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty()).attempt("opening", self.path(name))
    }

    pub fn list(&self) -> Result<Vec<String>> {
        let names = tree::names(self.fd()).attempt("listing", self.path.clone())?;
        // Foreign names that are not text cannot be ours.
        Ok(names
            .into_iter()
            .filter_map(|n| n.into_string().ok())
            .collect())
    }

    pub fn touch(&self, name: &str) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map(drop)
            .attempt("creating", self.path(name))
    }

    /// Removes a file, if it is there.
    pub fn unlink(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => done.attempt("removing", self.path(name)),
        }
    }

    pub fn fsync(&self) -> Result<()> {
        rustix::fs::fsync(&self.fd).attempt("flushing", self.path.clone())
    }

    /// Writes a record inside a draft; it becomes visible with the draft.
    pub fn write_record(&self, name: &str, record: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(record).map_err(|source| Error::Record {
            path: self.path(name),
            source,
        })?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .attempt("creating", self.path(name))?;
        File::from(file)
            .write_all(&json)
            .attempt("writing", self.path(name))
    }

    /// Reads a record; `None` if there is no such file.
    pub fn read_record<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.attempt("opening", self.path(name))?,
        };
        let mut json = Vec::new();
        let mut file = File::from(file).take(MAX_RECORD);
        file.read_to_end(&mut json)
            .attempt("reading", self.path(name))?;
        let parsed = serde_json::from_slice(&json);
        parsed.map(Some).map_err(|source| Error::Record {
            path: self.path(name),
            source,
        })
    }
}

/// The store's directories, all open. Holding it holds the lock.
pub(super) struct Layout {
    pub root: Dir,
    pub layers: Dir,
    pub durable: Dir,
    pub drafts: Dir,
    pub active: Dir,
    pub retired: Dir,
    pub trash: Dir,
    pub empty: Dir,
    /// Start of this process's use of the store: the first half of unique names.
    era: u128,
    next: AtomicU64,
}

impl Layout {
    pub fn open(path: &Path) -> Result<Self> {
        check_root(path)?;
        std::fs::create_dir_all(path).attempt("creating", path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).attempt("opening", path)?;
        lock(&fd, path)?;
        rustix::fs::fchmod(&fd, Mode::RWXU).attempt("setting the mode of", path)?;
        let root = Dir {
            fd,
            path: path.to_path_buf(),
        };
        let sub = |name: &str| -> Result<Dir> {
            match rustix::fs::mkdirat(&root.fd, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                failed => failed.attempt("creating", root.path(name))?,
            }
            Ok(Dir {
                fd: root.open(name)?,
                path: root.path(name),
            })
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let layout = Self {
            layers: sub("layers")?,
            durable: sub("durable")?,
            drafts: sub("drafts")?,
            active: sub("active")?,
            retired: sub("retired")?,
            trash: sub("trash")?,
            empty: sub("empty")?,
            root,
            era: now.as_nanos(),
            next: AtomicU64::new(0),
        };
        let shown = Mode::from_raw_mode(0o755);
        rustix::fs::fchmod(layout.empty.fd(), shown)
            .attempt("setting the mode of", layout.empty.path(""))?;
        Ok(layout)
    }

    /// A name that nothing in the store has had before.
    pub fn unique(&self) -> String {
        format!(
            "{:x}-{:x}",
            self.era,
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// The draft whose `fs` is at `path`, if it is one of this store.
    pub fn draft_name(&self, path: &Path) -> Option<String> {
        let inside = path.strip_prefix(&self.drafts.path).ok()?;
        let name = inside
            .parent()
            .filter(|_| inside.file_name() == Some(OsStr::new("fs")))?;
        let bytes = name.as_os_str().as_bytes();
        String::from_utf8(bytes.to_vec())
            .ok()
            .filter(|n| !n.is_empty() && !n.contains('/'))
    }

    pub fn read_layer(&self, name: &str) -> Result<Option<LayerRecord>> {
        self.layers.read_record(&format!("{name}/layer.json"))
    }

    /// Renames, unless the new name is taken: then `false`.
    pub fn rename_new(&self, from: &Dir, old: &str, to: &Dir, new: &str) -> Result<bool> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&from.fd, old, &to.fd, new, flags) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno).attempt("renaming into", to.path(new)),
        }
    }

    /// Moves an entry to the trash, or deletes it at once if the trash cannot grow because the
    /// disk is full. Succeeds if there is no such entry.
    pub fn to_trash(&self, from: &Dir, name: &str) -> Result<()> {
        // A discarded draft keeps its name, so that it can be found again.
        let new = if from.path == self.drafts.path {
            name.to_owned()
        } else {
            self.unique()
        };
        match rustix::fs::renameat(&from.fd, name, &self.trash.fd, &new) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) => {
                // Without its record a half-deleted directory is recognised at the next open.
                for record in ["snapshot.json", "layer.json"] {
                    from.unlink(&format!("{name}/{record}"))?;
                }
                let deleted = tree::delete(from.fd(), name, self.trash.fd());
                deleted.map(drop).attempt("deleting", from.path(name))
            }
            Err(errno) => Err(errno).attempt("moving to the trash", from.path(name)),
        }
    }

    /// Removes the kernel's mark that a volatile overlay was mounted here, if there is one.
    pub fn allow_remount(&self, key: &str) -> Result<()> {
        // The kernel makes a directory of its own, `work`, in the work directory.
        let inner = format!("{key}/work/work");
        let work = match self.active.open(&inner) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(());
            }
            opened => opened?,
        };
        let mark = self.active.path(&inner).join("incompat");
        tree::delete(work.as_fd(), "incompat", self.trash.fd())
            .map(drop)
            .attempt("removing", mark)
    }
}

/// OverlayFS splits its options at these characters, and its own escapes are not worth having.
fn check_root(path: &Path) -> Result<()> {
    let refuse = |reason| {
        Err(Error::InvalidRoot {
            path: path.to_path_buf(),
            reason,
        })
    };
    match path.to_str() {
        None => refuse("it is not UTF-8"),
        Some(text) if !text.starts_with('/') => refuse("it is not absolute"),
        Some(text) if text.contains([':', ',', '\\', '"']) => {
            refuse("it contains ':', ',', '\\' or '\"'")
        }
        Some(_) => Ok(()),
    }
}

fn lock(fd: &OwnedFd, path: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match rustix::fs::flock(fd, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::Locked {
                    path: path.to_path_buf(),
                });
            }
            Err(errno) => return Err(errno).attempt("locking", path),
        }
    }
}
