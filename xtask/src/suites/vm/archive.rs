//! The archive that a kernel unpacks as its first root: cpio in the "newc"
//! form (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::{self, Write};

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const TRAILER: &str = "TRAILER!!!";

/// Writes entries as they come; directories before what is in them.
pub struct Archive<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | mode, content)
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.entry(TRAILER, 0, &[])?;
        self.out.flush()
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::other("too long for a cpio archive");
        self.entries += 1;
        let size = u32::try_from(content.len()).map_err(too_long)?;
        let name = u32::try_from(path.len() + 1).map_err(too_long)?;
        // inode, mode, uid, gid, links, mtime, size, device ×2, special ×2, name, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(header.len() + path.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        let missing = written.next_multiple_of(4) - written;
        self.out.write_all(&[0; 4][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::which;
    use std::process::Command;

    #[test]
    fn another_reader_of_archives_finds_what_was_put_in() {
        let Some(busybox) = which("busybox") else {
            eprintln!("skipped: needs busybox (cargo xtask tools)");
            return;
        };
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("archive");
        let mut archive = Archive::new(std::fs::File::create(&path).unwrap());
        archive.directory("bin").unwrap();
        archive.file("bin/odd", 0o755, b"12345").unwrap();
        archive.file("last", 0o600, b"").unwrap();
        archive.finish().unwrap();
        let out = place.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let status = Command::new(busybox)
            .args(["cpio", "-i", "-F"])
            .arg(&path)
            .current_dir(&out)
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(std::fs::read(out.join("bin/odd")).unwrap(), b"12345");
        assert_eq!(std::fs::read(out.join("last")).unwrap(), b"");
    }
}
