//! Layers of images that are here, as archives for who carries them elsewhere.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Arc;

use berth_names::Digest;
use bytes::Bytes;
use flate2::write::GzEncoder;

use crate::images::{Shared, blocking};
use crate::manifest::{self, Descriptor, MAX_MANIFEST};
use crate::{Error, Image, Images, Result, pull};

const BUFFER: usize = 256 << 10;
/// What layers are compressed with, of gzip's nine: most of the gain for a part of the time.
const GZIP_LEVEL: u32 = 5;
const ZSTD_LEVEL: i32 = 3;
const PLAIN: [&str; 2] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
];

/// What a layer that is stored plain is compressed with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    #[default]
    Gzip,
    Zstd,
}

/// A layer's archive.
#[derive(Debug)]
pub struct StoredLayer {
    /// OCI's, whatever the image's manifest called it.
    pub media_type: String,
    pub digest: Digest,
    /// Of the archive without compression.
    pub diff_id: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// At its beginning.
    pub file: File,
}

/// A layer as it is sent.
pub(crate) struct Sent {
    pub descriptor: Descriptor,
    pub file: File,
}

impl Images {
    /// A layer of an image, counted from the bottom. One that is compressed already stays as it is.
    ///
    /// # Errors
    /// If the image was removed meanwhile, or has no such layer.
    pub async fn stored_layer(
        &self,
        image: &Image,
        number: usize,
        packing: Packing,
    ) -> Result<StoredLayer> {
        let shared = &self.shared;
        let gone = |problem: &str| Error::invalid("image", &image.id, "layers", problem);
        let catalog = shared.catalog();
        let record = catalog.record(&image.id);
        let record = record.ok_or_else(|| gone("it was removed meanwhile"))?;
        let _hold = shared.holds.hold(pull::items(record)).await;
        let diff_id = record.layers.get(number).map(|layer| layer.diff_id.clone());
        let bytes = read(shared, &record.manifest).await?;
        let parsed = manifest::manifest(&record.manifest, "", &bytes)?;
        let layer = parsed.layers.into_iter().nth(number);
        let (Some(diff_id), Some(layer)) = (diff_id, layer) else {
            return Err(gone("it has fewer"));
        };
        let Sent { descriptor, file } = prepare(shared, layer, packing).await?;
        Ok(StoredLayer {
            media_type: manifest::oci_type(&descriptor.media_type).to_owned(),
            digest: descriptor.digest,
            diff_id,
            size: descriptor.size,
            file,
        })
    }
}

/// Opens a layer; one that is stored plain is compressed.
pub(crate) async fn prepare(
    shared: &Arc<Shared>,
    layer: Descriptor,
    packing: Packing,
) -> Result<Sent> {
    let file = open(shared, &layer.digest).await?;
    if packing == Packing::Plain || !PLAIN.contains(&layer.media_type.as_str()) {
        return Ok(Sent {
            descriptor: layer,
            file,
        });
    }
    let spool = shared.content.spool();
    let spool = spool.map_err(Error::content("make a file for a layer"))?;
    blocking("compress a layer", move || {
        compress(file, spool, packing).map_err(|source| Error::Archive {
            operation: "compressing a layer",
            source,
        })
    })
    .await
}

pub(crate) async fn read(shared: &Arc<Shared>, manifest: &Digest) -> Result<Bytes> {
    let (content, digest) = (shared.content.clone(), manifest.clone());
    blocking("read a manifest", move || {
        let read = content.read(&digest, MAX_MANIFEST);
        read.map_err(Error::content("read a manifest"))
    })
    .await
}

pub(crate) async fn open(shared: &Arc<Shared>, digest: &Digest) -> Result<File> {
    let (content, digest) = (shared.content.clone(), digest.clone());
    blocking("open a blob", move || {
        let opened = content.open_blob(&digest);
        opened.map_err(Error::content("open a blob to be pushed"))
    })
    .await
}

/// Without a time or a name in it: the same layer gives the same bytes.
fn compress(from: File, to: File, packing: Packing) -> std::io::Result<Sent> {
    let mut hashing = Hashing {
        file: to,
        hasher: berth_content::Hasher::new(berth_names::Algorithm::Sha256),
        size: 0,
    };
    let media_type = match packing {
        Packing::Zstd => {
            let mut encoder = zstd::Encoder::new(&mut hashing, ZSTD_LEVEL)?;
            copy(from, &mut encoder)?;
            encoder.finish()?;
            "application/vnd.oci.image.layer.v1.tar+zstd"
        }
        Packing::Plain | Packing::Gzip => {
            let level = flate2::Compression::new(GZIP_LEVEL);
            let mut encoder = GzEncoder::new(&mut hashing, level);
            copy(from, &mut encoder)?;
            encoder.finish()?;
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }
    };
    let Hashing {
        mut file,
        hasher,
        size,
    } = hashing;
    file.rewind()?;
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: hasher.finish(),
        size,
    };
    Ok(Sent { descriptor, file })
}

fn copy(mut from: File, to: &mut impl Write) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(buffer.get(..count).unwrap_or_default())?,
        }
    }
}

struct Hashing {
    file: File,
    hasher: berth_content::Hasher,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use berth_unpack::{Compression, Decoder};

    use super::*;

    #[test]
    fn a_packed_layer_is_the_same_each_time_and_unpacks_to_what_it_was() {
        let plain: Vec<u8> = (0..100_000_u32)
            .flat_map(|n| (n % 251).to_le_bytes())
            .collect();
        for (packing, compression) in [
            (Packing::Gzip, Compression::Gzip),
            (Packing::Zstd, Compression::Zstd),
        ] {
            let packed = || {
                let mut from = tempfile::tempfile().unwrap();
                from.write_all(&plain).unwrap();
                from.rewind().unwrap();
                compress(from, tempfile::tempfile().unwrap(), packing).unwrap()
            };
            let (mut first, second) = (packed(), packed());
            assert_eq!(first.descriptor, second.descriptor);
            let mut bytes = Vec::new();
            first.file.read_to_end(&mut bytes).unwrap();
            assert_eq!(first.descriptor.size, bytes.len() as u64);
            assert_eq!(first.descriptor.digest, Digest::sha256_of(&bytes));
            let mut decoder = Decoder::new(bytes.as_slice(), Default::default()).unwrap();
            assert_eq!(decoder.compression(), compression);
            let mut all = Vec::new();
            decoder.read_to_end(&mut all).unwrap();
            assert!(all == plain, "{packing:?}");
        }
    }
}
