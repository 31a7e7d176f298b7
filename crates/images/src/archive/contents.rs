//! What is in an archive: names, and where their bytes are. Nothing is written anywhere.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use berth_names::Digest;
use berth_unpack::{Compression, Decoder};
use bytes::Bytes;
use tar::EntryType;

use crate::intake::{Section, reading};
use crate::{Error, Result};

/// Each costs some memory.
const MAX_MEMBERS: usize = 20_000;
const MAX_NAME: usize = 4096;
/// Links that lead to links.
const MAX_HOPS: usize = 8;
/// Bytes of what a compressed archive may become.
const MAX_BYTES: u64 = 256 << 30;
const BUFFER: usize = 256 << 10;

pub struct Contents(BTreeMap<String, Member>);

enum Member {
    File(Section),
    /// Old archives have a layer that two images share once, and links to it.
    Link(String),
}

impl Contents {
    /// Looks through an archive, which may be compressed as a whole: then it is unpacked to `spool`
    /// first. Blocks.
    pub fn read(archive: &Section, spool: impl FnOnce() -> Result<std::fs::File>) -> Result<Self> {
        let archive = match plain(archive, spool)? {
            Some(unpacked) => unpacked,
            None => archive.clone(),
        };
        let mut members = BTreeMap::new();
        let mut tar = tar::Archive::new(archive.reader());
        let entries = tar.entries_with_seek().map_err(unreadable)?;
        for entry in entries {
            let entry = entry.map_err(unreadable)?;
            if members.len() >= MAX_MEMBERS {
                let problem = format!("the archive has more than {MAX_MEMBERS} members");
                return Err(Error::BadArchive(problem));
            }
            let path = entry.path_bytes();
            let Some(name) = normal(&String::from_utf8_lossy(&path)) else {
                continue;
            };
            let member = match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    Member::File(archive.part(entry.raw_file_position(), entry.size()))
                }
                EntryType::Symlink | EntryType::Link => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    let target = String::from_utf8_lossy(&target).into_owned();
                    let is_hard = entry.header().entry_type() == EntryType::Link;
                    match resolve(&name, &target, is_hard) {
                        Some(target) => Member::Link(target),
                        None => continue,
                    }
                }
                _ => continue,
            };
            members.insert(name, member);
        }
        Ok(Self(members))
    }

    /// The bytes of a member, through links.
    pub fn get(&self, name: &str) -> Option<&Section> {
        let mut name = normal(name)?;
        for _ in 0..MAX_HOPS {
            match self.0.get(&name)? {
                Member::File(section) => return Some(section),
                Member::Link(target) => name = target.clone(),
            }
        }
        None
    }

    /// A member of at most `limit` bytes, in memory.
    pub fn document(&self, name: &str, limit: u64) -> Result<Option<Bytes>> {
        let Some(section) = self.get(name) else {
            return Ok(None);
        };
        if section.size() > limit {
            let problem = format!("{name} of the archive has more than {limit} bytes");
            return Err(Error::BadArchive(problem));
        }
        let mut bytes = Vec::new();
        section.reader().read_to_end(&mut bytes).map_err(reading)?;
        Ok(Some(bytes.into()))
    }

    pub fn blob(&self, digest: &Digest) -> Option<&Section> {
        self.get(&blob_path(digest))
    }

    /// A blob of a layout, verified.
    pub fn blob_document(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>> {
        let Some(bytes) = self.document(&blob_path(digest), limit)? else {
            return Ok(None);
        };
        if digest.matches(&bytes) {
            return Ok(Some(bytes));
        }
        Err(Error::DigestMismatch {
            what: format!("{} of the archive", blob_path(digest)),
            expected: digest.clone(),
            actual: Digest::sha256_of(&bytes),
        })
    }
}

pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// The whole archive without its compression, if it has one.
fn plain(
    archive: &Section,
    spool: impl FnOnce() -> Result<std::fs::File>,
) -> Result<Option<Section>> {
    let mut decoder = Decoder::new(archive.reader(), Default::default()).map_err(unreadable)?;
    if decoder.compression() == Compression::None {
        return Ok(None);
    }
    let mut file = spool()?;
    let (mut buffer, mut size) = (vec![0; BUFFER], 0u64);
    loop {
        let count = decoder.read(&mut buffer).map_err(unreadable)?;
        size += count as u64;
        if size > MAX_BYTES {
            let problem = format!("the archive becomes larger than {MAX_BYTES} bytes");
            return Err(Error::BadArchive(problem));
        }
        match buffer.get(..count) {
            Some(piece) if !piece.is_empty() => file.write_all(piece).map_err(storing)?,
            _ => break,
        }
    }
    Section::whole(file).map(Some).map_err(storing)
}

fn unreadable(error: std::io::Error) -> Error {
    Error::BadArchive(format!("this is no tar archive of images: {error}"))
}

fn storing(source: std::io::Error) -> Error {
    Error::Archive {
        operation: "storing an archive",
        source,
    }
}

/// A member's name without what changes nothing; `None` for one that leads out of the archive.
fn normal(name: &str) -> Option<String> {
    if name.len() > MAX_NAME {
        return None;
    }
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Where a link leads: a symbolic one from its directory, a hard one from the archive's root.
fn resolve(name: &str, target: &str, is_hard: bool) -> Option<String> {
    let directory = match name.rsplit_once('/') {
        Some((directory, _)) if !is_hard => directory,
        _ => "",
    };
    normal(&format!("{directory}/{target}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(build: impl FnOnce(&mut tar::Builder<std::fs::File>)) -> Section {
        let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
        build(&mut builder);
        Section::whole(builder.into_inner().unwrap()).unwrap()
    }

    fn add(builder: &mut tar::Builder<std::fs::File>, name: &str, content: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }

    fn no_spool() -> Result<std::fs::File> {
        Err(Error::BadArchive("no spool is needed".to_owned()))
    }

    #[test]
    fn members_are_found_by_name_and_through_links() {
        let archive = section(|builder| {
            add(builder, "./a/layer.tar", "first");
            add(builder, "b", "second");
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            builder
                .append_link(&mut header, "c/layer.tar", "../a/layer.tar")
                .unwrap();
        });
        let contents = Contents::read(&archive, no_spool).unwrap();
        let text = |name: &str| contents.document(name, 100).unwrap();
        assert_eq!(text("a/layer.tar").unwrap(), "first");
        assert_eq!(text("./b").unwrap(), "second");
        assert_eq!(text("c/layer.tar").unwrap(), "first");
        assert!(text("absent").is_none());
        assert!(contents.document("b", 3).is_err());
    }

    #[test]
    fn links_in_circles_and_out_of_the_archive_lead_nowhere() {
        let archive = section(|builder| {
            for (name, target) in [("x", "y"), ("y", "x"), ("z", "../../etc/passwd")] {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, name, target).unwrap();
            }
        });
        let contents = Contents::read(&archive, no_spool).unwrap();
        assert!(contents.get("x").is_none());
        assert!(contents.get("z").is_none());
    }

    #[test]
    fn garbage_is_called_so() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 4096]).unwrap();
        let archive = Section::whole(file).unwrap();
        let error = Contents::read(&archive, no_spool).err().unwrap();
        assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{error}");
    }
}
