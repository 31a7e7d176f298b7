//! A living tree to an archive: what clients copy out of containers, and their exports.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat};

use super::archive::{Archive, Packed, failed, look};
use super::listing::{Bounds, Names, enter};
use crate::error::Result;

/// What of a tree is packed, and how it is called.
#[derive(Debug, Clone, Copy, Default)]
pub struct TreeOptions<'a> {
    /// Name of the top in the archive; what is below it begins with it. `None` leaves the top out,
    /// which has to be a directory then.
    pub name: Option<&'a [u8]>,
    /// Paths below the top, without a slash before them, that are packed without what is in them.
    pub shallow: &'a [&'a [u8]],
}

struct Level {
    dir: OwnedFd,
    device: u64,
    names: Names,
    /// Bytes of its path below the top.
    path: usize,
}

/// Packs what `top` stands for, a descriptor opened with `O_PATH`, and everything below it, other
/// file systems that are mounted there included; but of those that are windows into the kernel
/// only their root. What vanishes meanwhile is left out.
pub fn pack_tree(
    top: BorrowedFd<'_>,
    out: impl Write,
    options: &TreeOptions<'_>,
) -> Result<Packed> {
    let mut walk = Walk {
        archive: Archive::new(out),
        bounds: Bounds::default(),
        options,
        path: Vec::new(),
    };
    walk.run(top)?;
    walk.archive.finish()
}

struct Walk<'a, W> {
    archive: Archive<W>,
    bounds: Bounds,
    options: &'a TreeOptions<'a>,
    /// Below the top.
    path: Vec<u8>,
}

impl<W: Write> Walk<'_, W> {
    fn run(&mut self, top: BorrowedFd<'_>) -> Result<()> {
        let fail = |errno| failed(b"/", errno);
        let handle = rustix::io::fcntl_dupfd_cloexec(top, 3).map_err(fail)?;
        let stat = rustix::fs::fstat(&handle).map_err(fail)?;
        let mut levels: Vec<Level> = self.meet(handle, &stat, None)?.into_iter().collect();
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path);
            let Some(name) = level.names.next() else {
                self.bounds.leave(&level.names);
                levels.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name);
            let found = look(level.dir.as_fd(), &name, &self.path)?;
            let device = level.device;
            if let Some((handle, stat)) = found
                && let Some(deeper) = self.meet(handle, &stat, Some((device, levels.len())))?
            {
                levels.push(deeper);
            }
        }
        Ok(())
    }

    /// Writes an entry; a directory is to be walked through then.
    fn meet(
        &mut self,
        handle: OwnedFd,
        stat: &Stat,
        above: Option<(u64, usize)>,
    ) -> Result<Option<Level>> {
        let name = self.name();
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            self.archive.object(&handle, stat, &name)?;
            return Ok(None);
        }
        let dir = enter(&handle, &name)?;
        if !name.is_empty() {
            self.archive.directory(&dir, stat, &name)?;
        }
        let is_other = above.is_none_or(|(device, _)| device != stat.st_dev);
        let is_shallow = self.options.shallow.contains(&&self.path[..]);
        if is_shallow || is_other && is_window(&dir) {
            return Ok(None);
        }
        let depth = above.map_or(0, |(_, depth)| depth);
        Ok(Some(Level {
            device: stat.st_dev,
            names: self.bounds.list(&dir, &name, depth)?,
            dir,
            path: self.path.len(),
        }))
    }

    /// In the archive; empty for a top that is left out.
    fn name(&self) -> Vec<u8> {
        match self.options.name {
            None => self.path.clone(),
            Some(top) if self.path.is_empty() => top.to_vec(),
            Some(b"/") => [b"/", &self.path[..]].concat(),
            Some(top) => [top, b"/", &self.path[..]].concat(),
        }
    }
}

/// Whether the file system of `file` shows the kernel's state rather than files of anyone's: proc,
/// sysfs, cgroup and their like. Files there may be endless, or do something when they are read.
pub fn is_window(file: impl AsFd) -> bool {
    /// `linux/magic.h`.
    const WINDOWS: [u64; 17] = [
        0x9fa0,      // proc
        0x6265_6572, // sysfs
        0x0027_e0eb, // cgroup
        0x6367_7270, // cgroup2
        0x1cd1,      // devpts
        0x1980_0202, // mqueue
        0x7363_6673, // securityfs
        0x6462_6720, // debugfs
        0x7472_6163, // tracefs
        0xcafe_4a11, // bpf
        0x6265_6570, // configfs
        0x6165_676c, // pstore
        0xde5e_81e4, // efivarfs
        0x4249_4e4d, // binfmt_misc
        0xf97c_ff8c, // selinuxfs
        0x6e73_6673, // nsfs
        0x0187,      // autofs
    ];
    rustix::fs::fstatfs(file).is_ok_and(|found| {
        let kind = u64::try_from(found.f_type).unwrap_or(0);
        WINDOWS.contains(&kind)
    })
}
