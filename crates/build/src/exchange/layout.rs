//! OCI layouts as archives: what a client sends of a directory, and what it gets for one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;

use berth_names::Digest;
use serde_json::json;
use sha2::Digest as _;

use super::document::LARGEST;
use crate::error::{Error, Result};

/// What BuildKit calls a cache in a layout.
pub const TAG: &str = "latest";
const MOST_ENTRIES: usize = 100_000;
const BUFFER: usize = 256 << 10;

/// A layout that was sent, with where its blobs are in the file.
#[derive(Debug)]
pub struct Layout {
    file: File,
    index: Vec<u8>,
    blobs: HashMap<Digest, (u64, u64)>,
}

impl Layout {
    /// Looks through an archive. Blocking.
    ///
    /// # Errors
    /// If it is no archive, or has no index.
    pub fn read(mut file: File) -> Result<Self> {
        file.rewind().map_err(Error::Context)?;
        let mut archive = tar::Archive::new(&file);
        let (mut index, mut blobs) = (None, HashMap::new());
        for (count, entry) in archive.entries().map_err(Error::Context)?.enumerate() {
            let entry = entry.map_err(Error::Context)?;
            if count >= MOST_ENTRIES {
                let problem = format!("a layout has more than {MOST_ENTRIES} entries");
                return Err(Error::invalid(problem));
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let place = (entry.raw_file_position(), entry.size());
            match name.trim_start_matches("./") {
                "index.json" => index = Some(place),
                name => {
                    if let Some(digest) = named(name) {
                        blobs.insert(digest, place);
                    }
                }
            }
        }
        let index = index.ok_or_else(|| Error::invalid("a layout has no index.json"))?;
        let index = section(&file, index)?;
        Ok(Self { file, index, blobs })
    }

    pub(super) fn index(&self) -> &[u8] {
        &self.index
    }

    /// A blob of at most so many bytes, checked.
    pub(super) fn bytes(&self, digest: &Digest) -> Result<Vec<u8>> {
        let bytes = section(&self.file, self.place(digest)?)?;
        match digest.matches(&bytes) {
            true => Ok(bytes),
            false => Err(wrong(digest)),
        }
    }

    /// Copies a blob into `to`, checked.
    pub(super) fn copy(&self, digest: &Digest, size: u64, mut to: File) -> Result<File> {
        let (mut offset, mut left) = self.place(digest)?;
        if left != size {
            return Err(wrong(digest));
        }
        let (mut hash, mut buffer) = (sha2::Sha256::new(), vec![0; BUFFER]);
        while left > 0 {
            let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            let piece = buffer.get_mut(..most).unwrap_or_default();
            self.file
                .read_exact_at(piece, offset)
                .map_err(Error::Context)?;
            hash.update(&*piece);
            to.write_all(piece).map_err(Error::Layer)?;
            offset += most as u64;
            left -= most as u64;
        }
        match Digest::from_sha256(hash.finalize().into()) == *digest {
            true => Ok(to),
            false => Err(wrong(digest)),
        }
    }

    fn place(&self, digest: &Digest) -> Result<(u64, u64)> {
        let place = self.blobs.get(digest).copied();
        place.ok_or_else(|| Error::invalid(format!("{digest} is not there")))
    }
}

/// The blob that a member of a layout is.
fn named(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

fn section(file: &File, (offset, size): (u64, u64)) -> Result<Vec<u8>> {
    if size > LARGEST {
        return Err(Error::invalid(format!(
            "{size} bytes are more than {LARGEST}"
        )));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    file.read_exact_at(&mut bytes, offset)
        .map_err(Error::Context)?;
    Ok(bytes)
}

fn wrong(digest: &Digest) -> Error {
    Error::invalid(format!("what is there as {digest} is something else"))
}

/// A layout on its way into an archive. The index comes last: who unpacks it over an older one has
/// either whole.
pub struct Writing {
    archive: tar::Builder<File>,
    written: HashMap<Digest, u64>,
}

impl Writing {
    pub fn new(to: File) -> Self {
        Self {
            archive: tar::Builder::new(to),
            written: HashMap::new(),
        }
    }

    /// Puts a blob in, unless it is in already. Blocking.
    pub fn blob(&mut self, digest: &Digest, size: u64, content: impl Read) -> Result<()> {
        if self.written.insert(digest.clone(), size).is_some() {
            return Ok(());
        }
        let name = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
        self.member(&name, size, content)
    }

    fn member(&mut self, name: &str, size: u64, content: impl Read) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        let added = self.archive.append_data(&mut header, name, content);
        added.map_err(Error::Layer)
    }

    /// Names the manifest, and gives the archive back at its beginning. Blocking.
    pub fn finish(mut self, media_type: &str, manifest: &[u8], tag: &str) -> Result<File> {
        let digest = Digest::sha256_of(manifest);
        self.blob(&digest, manifest.len() as u64, manifest)?;
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": media_type,
                "digest": digest,
                "size": manifest.len(),
                "annotations": { "org.opencontainers.image.ref.name": tag },
            }],
        })
        .to_string();
        let version = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
        for (name, text) in [("oci-layout", version), ("index.json", index)] {
            self.member(name, text.len() as u64, text.as_bytes())?;
        }
        let mut file = self.archive.into_inner().map_err(Error::Layer)?;
        file.rewind().map_err(Error::Layer)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_read_back_and_its_blobs_are_checked() {
        let mut writing = Writing::new(tempfile::tempfile().unwrap());
        let good = Digest::sha256_of(b"good");
        writing.blob(&good, 4, &b"good"[..]).unwrap();
        writing.blob(&good, 4, &b"good"[..]).unwrap();
        let bad = Digest::sha256_of(b"bad");
        writing.blob(&bad, 3, &b"lie"[..]).unwrap();
        let file = writing.finish("x/y", b"{}", TAG).unwrap();
        let layout = Layout::read(file).unwrap();
        assert_eq!(layout.blobs.len(), 3);
        assert_eq!(layout.bytes(&good).unwrap(), b"good");
        let spool = || tempfile::tempfile().unwrap();
        let mut copied = layout.copy(&good, 4, spool()).unwrap();
        copied.rewind().unwrap();
        let mut text = String::new();
        copied.read_to_string(&mut text).unwrap();
        assert_eq!(text, "good");
        assert!(layout.bytes(&bad).is_err());
        assert!(layout.copy(&bad, 3, spool()).is_err());
        assert!(layout.copy(&good, 5, spool()).is_err());
        assert!(layout.bytes(&Digest::sha256_of(b"none")).is_err());
        let found = super::super::offered::tagged(layout.index(), TAG).unwrap();
        assert_eq!(found.digest, Digest::sha256_of(b"{}"));
    }

    #[test]
    fn what_is_no_layout_is_refused() {
        assert!(Layout::read(tempfile::tempfile().unwrap()).is_err());
        assert_eq!(named("blobs/sha256/../../etc"), None);
        assert_eq!(named("elsewhere"), None);
    }
}
