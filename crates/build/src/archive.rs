//! Archives that `ADD` unpacks: tar, as it is or compressed.

use std::io::Read;

use tar::EntryType;

use crate::compressed;
use crate::copy::Copier;
use crate::error::{Error, Result};
use crate::ignore::clean;
use crate::layer::Attributes;
use crate::tree::{Node, NodeKind, Tree, joined};

const BLOCK: usize = 512;
/// Entries of one archive.
const MAX_ENTRIES: usize = 8_000_000;

/// Whether a file is an archive that can be unpacked.
pub fn is_one(tree: &dyn Tree, path: &str) -> Result<bool> {
    let mut begin = Vec::new();
    let opened = tree.open(path)?;
    let read = opened.take(8).read_to_end(&mut begin);
    read.map_err(Error::Context)?;
    let mut contents: Box<dyn Read + '_> = tree.open(path)?;
    let mut block = Vec::new();
    if compressed::is_compressed(&begin) {
        let Ok(plain) = compressed::plain(contents) else {
            return Ok(false);
        };
        contents = plain;
    }
    if contents.take(BLOCK as u64).read_to_end(&mut block).is_err() {
        return Ok(false);
    }
    Ok(block.len() == BLOCK && block.get(257..262) == Some(b"ustar"))
}

/// Puts what is in an archive below `place`.
pub fn unpack(tree: &dyn Tree, path: &str, copier: &mut Copier<'_>, place: &str) -> Result<()> {
    let contents = compressed::plain(tree.open(path)?).map_err(Error::Context)?;
    let mut archive = tar::Archive::new(contents);
    let entries = archive.entries().map_err(Error::Context)?;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(Error::Context)?;
        if count >= MAX_ENTRIES {
            return Err(Error::invalid(format!(
                "{path} has more than {MAX_ENTRIES} entries"
            )));
        }
        let name = clean(&String::from_utf8_lossy(&entry.path_bytes()));
        let to = joined(place, &name);
        if name.is_empty() {
            continue;
        }
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let attributes = attributes(&mut entry)?;
        let kind = match entry.header().entry_type() {
            EntryType::Directory => NodeKind::Directory,
            EntryType::Regular | EntryType::Continuous => NodeKind::File { size: entry.size() },
            EntryType::Symlink => NodeKind::Symlink(target),
            EntryType::Link => {
                let target = joined(place, &clean(&String::from_utf8_lossy(&target)));
                copier.hard_link(&to, &target, &attributes)?;
                continue;
            }
            EntryType::Fifo => NodeKind::Other(rustix::fs::FileType::Fifo, 0),
            // Devices of somebody else's machine.
            _ => continue,
        };
        copier.put(&to, &Node { kind, attributes }, entry)?;
    }
    Ok(())
}

fn attributes<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Attributes> {
    let header = entry.header().clone();
    let number = |field: std::io::Result<u64>| -> Result<u32> {
        let number = field.map_err(Error::Context)?;
        u32::try_from(number).map_err(|_| Error::invalid("an id in the archive is too large"))
    };
    let mut xattrs = Vec::new();
    for extension in entry
        .pax_extensions()
        .map_err(Error::Context)?
        .into_iter()
        .flatten()
    {
        let extension = extension.map_err(Error::Context)?;
        let name = extension.key().unwrap_or_default();
        if let Some(name) = name.strip_prefix("SCHILY.xattr.") {
            xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(Attributes {
        mode: header.mode().map_err(Error::Context)? & 0o7777,
        uid: number(header.uid())?,
        gid: number(header.gid())?,
        mtime: header.mtime().map_err(Error::Context)?,
        xattrs,
    })
}
