//! The archive of a checkpoint, as kubelets keep it and CRI-O and checkpointctl read it.
//!
//! ```text
//! config.dump       what the container was: id, name, image, times
//! spec.dump         its runtime specification
//! status.dump       when it was made and started, and its state
//! checkpoint/       the images of criu
//! dump.log, stats-dump  what criu said
//! rootfs-diff.tar   what it has written, relative to its image
//! deleted.files     what of its image it has deleted: a list in JSON
//! container.log     its log until now
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
use tar::{Builder, EntryType, Header};

/// Overlay's mark of a directory that hides what is below it.
/// Deeper trees are not followed: each level holds a descriptor.
const DEPTH: usize = 256;

/// Packs everything in `work` into a new file beside `location` and gives it that name when it is
/// whole and on disk.
pub(super) fn pack(work: &Path, location: &Path) -> io::Result<()> {
    let fresh = work.with_extension("tar");
    let packed = write(work, &fresh).and_then(|()| fs::rename(&fresh, location));
    if packed.is_err() {
        let _nothing_there = fs::remove_file(&fresh);
    }
    packed
}

fn write(work: &Path, fresh: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(fresh)?;
    let mut archive = Builder::new(BufWriter::new(file));
    archive.follow_symlinks(false);
    archive.append_dir_all("", work)?;
    let mut out = archive.into_inner()?;
    out.flush()?;
    out.get_ref().sync_all()
}

/// Writes the files of a writable layer, and answers with what it has deleted of the image.
///
/// The container goes on and may exchange a directory for a link while it is read: each is opened
/// through its parent, never by a path.
pub(super) fn write_layer(upper: &Path, to: &Path) -> io::Result<Vec<PathBuf>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = rustix::fs::open(upper, flags, Mode::empty())?;
    let file = File::create_new(to)?;
    let mut layer = Layer {
        archive: Builder::new(BufWriter::new(file)),
        deleted: Vec::new(),
    };
    layer.directory(root, Path::new(""), 0)?;
    layer.archive.into_inner()?.flush()?;
    Ok(layer.deleted)
}

struct Layer<W: Write> {
    archive: Builder<W>,
    deleted: Vec<PathBuf>,
}

impl<W: Write> Layer<W> {
    fn directory(&mut self, fd: OwnedFd, at: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH {
            let problem = format!("{} is nested too deeply", at.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = at.join(name.to_string_lossy().as_ref());
            match self.entry(&fd, name, &path, depth) {
                // The container removed or exchanged it meanwhile.
                Err(error) if is_race(&error) => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        parent: &OwnedFd,
        name: &std::ffi::CStr,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let stat = statat(parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let device = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        if kind == FileType::CharacterDevice && device == (0, 0) {
            self.deleted.push(path.to_owned());
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(stat.st_uid.into());
        header.set_gid(stat.st_gid.into());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(0);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match kind {
            FileType::Directory => {
                let fd = openat(parent, name, flags | OFlags::DIRECTORY, Mode::empty())?;
                if is_opaque(&fd) {
                    self.deleted.push(path.to_owned());
                }
                header.set_entry_type(EntryType::Directory);
                self.archive.append_data(&mut header, path, io::empty())?;
                self.directory(fd, path, depth + 1)
            }
            FileType::RegularFile => {
                let file = File::from(openat(parent, name, flags, Mode::empty())?);
                let length = file.metadata()?.len();
                header.set_entry_type(EntryType::Regular);
                header.set_size(length);
                // A file that shrinks while it is read is filled up with zeros.
                let content = io::Read::chain(file, io::repeat(0));
                let content = io::Read::take(content, length);
                self.archive.append_data(&mut header, path, content)
            }
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new())?;
                header.set_entry_type(EntryType::Symlink);
                let target = target.to_string_lossy().into_owned();
                self.archive.append_link(&mut header, path, target)
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                header.set_entry_type(match kind {
                    FileType::CharacterDevice => EntryType::Char,
                    FileType::BlockDevice => EntryType::Block,
                    _ => EntryType::Fifo,
                });
                header.set_device_major(device.0)?;
                header.set_device_minor(device.1)?;
                self.archive.append_data(&mut header, path, io::empty())
            }
            // A socket lives with its process.
            _ => Ok(()),
        }
    }
}

fn is_opaque(directory: &impl AsFd) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(directory, berth_kernel::overlay_marks().opaque, &mut value)
        .is_ok_and(|_| value == *b"y")
}

fn is_race(error: &io::Error) -> bool {
    let raced = [
        rustix::io::Errno::NOENT,
        rustix::io::Errno::LOOP,
        rustix::io::Errno::NOTDIR,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| raced.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_layer_is_written_without_following_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let upper = dir.path().join("upper");
        fs::create_dir_all(upper.join("etc")).unwrap();
        fs::write(upper.join("etc/new"), "text").unwrap();
        symlink("/etc", upper.join("link")).unwrap();
        symlink("/etc/passwd", upper.join("etc/file")).unwrap();
        let to = dir.path().join("diff.tar");
        assert!(write_layer(&upper, &to).unwrap().is_empty());
        let mut archive = tar::Archive::new(File::open(&to).unwrap());
        let mut seen: Vec<(String, EntryType, u64)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                (path, entry.header().entry_type(), entry.size())
            })
            .collect();
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("etc", EntryType::Directory, 0),
            ("etc/file", EntryType::Symlink, 0),
            ("etc/new", EntryType::Regular, 4),
            ("link", EntryType::Symlink, 0),
        ];
        let expected = expected.map(|(path, kind, size)| (path.to_owned(), kind, size));
        assert_eq!(seen, expected);
    }

    #[test]
    fn an_archive_appears_whole_and_only_for_its_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join(".work");
        fs::create_dir_all(work.join("checkpoint")).unwrap();
        fs::write(work.join("config.dump"), "{}").unwrap();
        let location = dir.path().join("c.tar");
        pack(&work, &location).unwrap();
        assert_eq!(
            fs::metadata(&location).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let mut archive = tar::Archive::new(File::open(&location).unwrap());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(names.iter().any(|name| name == "config.dump"), "{names:?}");
        assert!(pack(&dir.path().join("missing"), &dir.path().join("d.tar")).is_err());
        assert!(!dir.path().join("d.tar").exists() && !dir.path().join("missing.tar").exists());
    }
}
