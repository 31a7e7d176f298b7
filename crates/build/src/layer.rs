//! A layer on its way to be an archive.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom};

use tar::{Builder, EntryType, Header};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 256 << 10;

/// What an entry says beside its name and content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u64,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Writes entries in the order in which they are given. Names are relative, without `.` and `..`.
pub struct Layer {
    archive: Builder<BufWriter<File>>,
    entries: u64,
    /// No time is later: for builds that are to be the same again.
    latest: Option<u64>,
}

impl Layer {
    pub fn new(file: File, latest: Option<u64>) -> Self {
        Self {
            archive: Builder::new(BufWriter::with_capacity(BUFFER, file)),
            entries: 0,
            latest,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub fn directory(&mut self, path: &str, attributes: &Attributes) -> io::Result<()> {
        let mut header = self.begin(EntryType::Directory, attributes)?;
        let path = format!("{path}/");
        self.archive.append_data(&mut header, path, io::empty())
    }

    /// `size` bytes of `content` are read, and have to be there.
    pub fn file(
        &mut self,
        path: &str,
        attributes: &Attributes,
        size: u64,
        content: impl Read,
    ) -> io::Result<()> {
        let mut header = self.begin(EntryType::Regular, attributes)?;
        header.set_size(size);
        let mut counted = Counted {
            inner: content.take(size),
            read: 0,
        };
        self.archive.append_data(&mut header, path, &mut counted)?;
        if counted.read != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    pub fn symlink(&mut self, path: &str, attributes: &Attributes, to: &[u8]) -> io::Result<()> {
        self.link(EntryType::Symlink, path, attributes, to)
    }

    /// To an entry before this one.
    pub fn hard_link(&mut self, path: &str, attributes: &Attributes, to: &str) -> io::Result<()> {
        self.link(EntryType::Link, path, attributes, to.as_bytes())
    }

    fn link(
        &mut self,
        kind: EntryType,
        path: &str,
        attributes: &Attributes,
        to: &[u8],
    ) -> io::Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let mut header = self.begin(kind, attributes)?;
        let to = std::ffi::OsStr::from_bytes(to);
        self.archive.append_link(&mut header, path, to)
    }

    /// A device or a named pipe.
    pub fn special(
        &mut self,
        path: &str,
        attributes: &Attributes,
        kind: EntryType,
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let mut header = self.begin(kind, attributes)?;
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.archive.append_data(&mut header, path, io::empty())
    }

    fn begin(&mut self, kind: EntryType, attributes: &Attributes) -> io::Result<Header> {
        self.entries += 1;
        if !attributes.xattrs.is_empty() {
            let named: Vec<(String, &[u8])> = (attributes.xattrs.iter())
                .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice()))
                .collect();
            let named = named.iter().map(|(name, value)| (name.as_str(), *value));
            self.archive.append_pax_extensions(named)?;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(attributes.mode & 0o7777);
        header.set_uid(attributes.uid.into());
        header.set_gid(attributes.gid.into());
        let latest = self.latest.unwrap_or(u64::MAX);
        header.set_mtime(attributes.mtime.min(latest));
        header.set_size(0);
        Ok(header)
    }

    /// The whole archive, from its beginning.
    pub fn finish(self) -> io::Result<File> {
        let mut file = self
            .archive
            .into_inner()?
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }
}

struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_back_as_they_were_given() {
        let mut layer = Layer::new(tempfile::tempfile().unwrap(), Some(100));
        let attributes = Attributes {
            mode: 0o4755,
            uid: 3_000_000,
            gid: 7,
            mtime: 500,
            xattrs: vec![("user.x".into(), b"y\n\0".to_vec())],
        };
        let long = format!("{}/file", "d".repeat(150));
        layer.directory("a", &attributes).unwrap();
        layer
            .file(&long, &attributes, 5, &b"hello, more"[..])
            .unwrap();
        layer.symlink("l", &attributes, b"/somewhere").unwrap();
        layer.hard_link("h", &attributes, &long).unwrap();
        assert!(layer.file("short", &attributes, 5, &b"hi"[..]).is_err());
        let mut archive = tar::Archive::new(layer.finish().unwrap());
        let mut paths = Vec::new();
        for entry in archive.entries().unwrap().take(4) {
            let mut entry = entry.unwrap();
            if entry.path().unwrap().starts_with("d".repeat(150)) {
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                assert_eq!(text, "hello");
                assert_eq!(entry.header().uid().unwrap(), 3_000_000);
                assert_eq!(entry.header().mode().unwrap(), 0o4755);
                assert_eq!(entry.header().mtime().unwrap(), 100);
            }
            paths.push(entry.path().unwrap().display().to_string());
        }
        assert_eq!(paths, ["a/", &long, "l", "h"]);
    }
}
