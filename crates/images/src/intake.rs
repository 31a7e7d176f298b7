//! Images that do not come from a registry: archives that are loaded or imported, and what is made
//! of containers. Layer by layer, then the config; nothing is seen before all of it is on the disk.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use berth_metadata::schema::{IMAGES, REFERENCES, ReferenceRecord};
use berth_names::{ChainId, Digest, ImageRef};
use berth_registry::media_type::OCI_MANIFEST;
use berth_unpack::{Compression, Decoder};
use bytes::Bytes;
use serde_json::json;

use crate::document::{Content, Document, Found};
use crate::holds::{Hold, Item};
use crate::images::{Shared, blocking};
use crate::manifest::{self, Descriptor, MAX_CONFIG, MAX_MANIFEST, OCI_CONFIG};
use crate::unpacking::Unpacking;
use crate::{Error, Image, Images, Result, catalog, pull};

const BUFFER: usize = 256 << 10;
const BUSY_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// A part of a file. Clones read on their own.
#[derive(Debug, Clone)]
pub struct Section {
    file: Arc<File>,
    offset: u64,
    size: u64,
}

impl Section {
    /// All that the file has now.
    ///
    /// # Errors
    /// If its size cannot be asked.
    pub fn whole(file: File) -> std::io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self {
            file: Arc::new(file),
            offset: 0,
            size,
        })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// The part of this one that begins at `offset`; shorter where this one ends before.
    pub(crate) fn part(&self, offset: u64, size: u64) -> Self {
        let offset = offset.min(self.size);
        Self {
            file: Arc::clone(&self.file),
            offset: self.offset + offset,
            size: size.min(self.size - offset),
        }
    }

    pub(crate) fn reader(&self) -> SectionReader {
        SectionReader {
            section: self.clone(),
            at: 0,
        }
    }
}

/// Reads at places of its own: the file's is not moved.
pub(crate) struct SectionReader {
    section: Section,
    at: u64,
}

impl Read for SectionReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.section.size - self.at;
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        let place = self.section.offset + self.at;
        let count = self.section.file.read_at(buffer, place)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for SectionReader {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.section.size.checked_add_signed(by),
        };
        match target {
            Some(at) if at <= self.section.size => {
                self.at = at;
                Ok(at)
            }
            _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// An image on its way in. Dropped, it leaves nothing that is kept.
pub struct Intake {
    shared: Arc<Shared>,
    layers: Vec<Descriptor>,
    chain: Option<ChainId>,
    diff_ids: Vec<Digest>,
    holds: Vec<Hold>,
    is_for_any: bool,
}

/// A layer that was looked through.
struct Measured {
    descriptor: Descriptor,
    diff_id: Digest,
}

impl Images {
    /// Begins to take an image in, on the layers of another if there is one.
    ///
    /// # Errors
    /// If the base's manifest cannot be read.
    pub async fn intake(&self, base: Option<&Image>) -> Result<Intake> {
        let mut intake = Intake {
            shared: Arc::clone(&self.shared),
            layers: Vec::new(),
            chain: None,
            diff_ids: Vec::new(),
            holds: Vec::new(),
            is_for_any: false,
        };
        if let Some(base) = base {
            intake.stand_on(base).await?;
        }
        Ok(intake)
    }

    /// A file without a name, on the disk of the images: for archives that arrive.
    pub async fn spool(&self) -> Result<File> {
        let content = self.shared.content.clone();
        blocking("make a file for an archive", move || {
            content
                .spool()
                .map_err(Error::content("make a file for an archive"))
        })
        .await
    }
}

impl Intake {
    async fn stand_on(&mut self, base: &Image) -> Result<()> {
        let catalog = self.shared.catalog();
        let Some(record) = catalog.record(&base.id) else {
            let problem = "it was removed meanwhile";
            return Err(Error::invalid("image", &base.id, "layers", problem));
        };
        self.holds
            .push(self.shared.holds.hold(pull::items(record)).await);
        let (content, digest) = (self.shared.content.clone(), record.manifest.clone());
        let read = blocking("read a manifest", move || {
            let failed = Error::content("read a manifest");
            let bytes = content.read(&digest, MAX_MANIFEST).map_err(failed)?;
            manifest::manifest(&digest, "", &bytes)
        });
        self.layers = read.await?.layers;
        let known = record.layers.iter();
        self.diff_ids = known.map(|layer| layer.diff_id.clone()).collect();
        self.chain = record.layers.last().map(|layer| layer.chain_id.clone());
        Ok(())
    }

    /// Puts a layer on top: a tar archive, as it is, compressed by gzip or by zstd.
    pub async fn layer(&mut self, archive: Section) -> Result<()> {
        let measured = {
            let archive = archive.clone();
            blocking("look through a layer", move || measure(&archive)).await?
        };
        self.take(archive, measured).await
    }

    /// The same for a stranger's archive with this digest, which was checked, that is said to become
    /// `diff_id`: nothing but the unpacker looks into it, and finds out whether it does.
    ///
    /// # Errors
    /// If it is something else.
    pub async fn announced_layer(
        &mut self,
        archive: Section,
        digest: Digest,
        diff_id: Digest,
    ) -> Result<()> {
        let chain = ChainId::of(self.chain.as_ref(), &diff_id);
        let snapshotter = Arc::clone(&self.shared.snapshotter);
        let is_here = blocking("look up a layer", move || {
            let found = snapshotter.layer(&chain);
            Ok(found.map_err(Error::layer("look up", &chain))?.is_some())
        });
        // Nobody would unpack it.
        if is_here.await? {
            self.layer(archive).await?;
            return match self.diff_ids.last() {
                Some(found) if *found == diff_id => Ok(()),
                found => Err(Error::DigestMismatch {
                    what: format!("the archive in layer {digest}"),
                    expected: diff_id,
                    actual: found.cloned().unwrap_or(digest),
                }),
            };
        }
        let decoder = Decoder::new(archive.reader(), Default::default()).map_err(reading)?;
        let media_type = media_type(decoder.compression());
        drop(decoder);
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size: archive.size(),
        };
        let announced = Measured {
            descriptor,
            diff_id,
        };
        self.take(archive, announced).await
    }

    async fn take(&mut self, archive: Section, measured: Measured) -> Result<()> {
        let Measured {
            descriptor,
            diff_id,
        } = measured;
        let chain = ChainId::of(self.chain.as_ref(), &diff_id);
        let items = vec![
            Item::Blob(descriptor.digest.clone()),
            Item::Layer(chain.clone()),
        ];
        self.holds.push(self.shared.holds.hold(items).await);
        let _layer = self.shared.layers.lock(chain.clone()).await;
        let _blob = self.shared.blobs.lock(descriptor.digest.clone()).await;
        let work = Work {
            shared: Arc::clone(&self.shared),
            archive,
            descriptor: descriptor.clone(),
            diff_id: diff_id.clone(),
            chain: chain.clone(),
            parent: self.chain.clone(),
        };
        blocking("take a layer in", move || work.run()).await?;
        self.layers.push(descriptor);
        self.diff_ids.push(diff_id);
        self.chain = Some(chain);
        Ok(())
    }

    /// The image may be for other machines than this one.
    pub fn for_any_platform(self) -> Self {
        Self {
            is_for_any: true,
            ..self
        }
    }

    /// The uncompressed archives' digests, bottom to top, as the config has to name them.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.diff_ids
    }

    /// Makes the image with this config visible, under these names and those that it has already.
    /// Returns its id.
    ///
    /// # Errors
    /// If the config is not one for these layers, or not for this machine.
    pub async fn finish(
        self,
        config: Bytes,
        manifest: Option<Bytes>,
        names: &[ImageRef],
    ) -> Result<Digest> {
        let id = Digest::sha256_of(&config);
        if config.len() as u64 > MAX_CONFIG {
            let problem = format!("{} bytes are more than {MAX_CONFIG}", config.len());
            return Err(Error::invalid("config", &id, "size", problem));
        }
        let config = Document {
            digest: id.clone(),
            media_type: OCI_CONFIG.to_owned(),
            bytes: config,
        };
        let manifest = match manifest {
            Some(bytes) => self.given(bytes)?,
            None => self.made(&config),
        };
        let name = names.first().map_or(id.to_string(), ImageRef::to_string);
        let host = &self.shared.config.platform;
        let host = (!self.is_for_any).then_some(host);
        let parsed = manifest::manifest(&manifest.digest, &manifest.media_type, &manifest.bytes)?;
        let (_, plans) = manifest::plan(&name, &parsed, &config.bytes, host)?;
        let chain = plans.last().map(|plan| plan.chain_id.clone());
        if chain != self.chain || parsed.config.digest != id {
            let problem = "they are not those of the archive";
            return Err(Error::invalid("config", &id, "rootfs.diff_ids", problem));
        }
        let found = Found {
            manifest: manifest.digest.clone(),
            trail: vec![manifest.clone()],
            content: Content::Image {
                manifest: parsed,
                config: config.clone(),
            },
        };
        let record = pull::image_record(&found, &config, &plans)?;
        let _hold = self.shared.holds.hold(pull::items(&record)).await;
        let (shared, documents) = (Arc::clone(&self.shared), [manifest.clone(), config]);
        blocking("store an image", move || {
            for document in &documents {
                let stored = shared.content.put(&document.digest, &document.bytes);
                stored.map_err(Error::content("store a document"))?;
            }
            Ok(())
        })
        .await?;
        let names: Vec<_> = names.iter().map(catalog::key).collect();
        let finished = self
            .shared
            .change(move |catalog, batch| {
                // What a registry gave is worth more than what an archive made of it.
                let known = catalog.record(&id).cloned();
                let mut record = known.unwrap_or(record);
                record.pulled_at = SystemTime::now();
                batch.put(IMAGES, &id, &record)?;
                let reference = ReferenceRecord {
                    image: id.clone(),
                    target: record.manifest.clone(),
                };
                let references: Vec<_> = names
                    .into_iter()
                    .map(|name| (name, reference.clone()))
                    .collect();
                for (name, reference) in &references {
                    batch.put(REFERENCES, name, reference)?;
                }
                Ok((catalog.with(&id, record, &references), id))
            })
            .await;
        self.shared.flush_behind();
        finished
    }

    /// The manifest that came with the layers.
    fn given(&self, bytes: Bytes) -> Result<Document> {
        let digest = Digest::sha256_of(&bytes);
        let parsed = manifest::manifest(&digest, "", &bytes)?;
        let same = parsed.layers.iter().map(|layer| &layer.digest);
        if !same.eq(self.layers.iter().map(|layer| &layer.digest)) {
            let problem = "they are not those of the archive";
            return Err(Error::invalid("manifest", &digest, "layers", problem));
        }
        Ok(Document {
            digest,
            media_type: manifest::media_type(&bytes),
            bytes,
        })
    }

    fn made(&self, config: &Document) -> Document {
        let layers = self.layers.iter().map(|layer| {
            json!({
                "mediaType": manifest::oci_type(&layer.media_type),
                "digest": layer.digest,
                "size": layer.size,
            })
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": OCI_CONFIG,
                "digest": config.digest,
                "size": config.bytes.len(),
            },
            "layers": layers.collect::<Vec<_>>(),
        });
        let bytes = Bytes::from(manifest.to_string());
        Document {
            digest: Digest::sha256_of(&bytes),
            media_type: OCI_MANIFEST.to_owned(),
            bytes,
        }
    }
}

/// Taking in one layer: as a blob, and unpacked. Blocks.
struct Work {
    shared: Arc<Shared>,
    archive: Section,
    descriptor: Descriptor,
    diff_id: Digest,
    chain: ChainId,
    parent: Option<ChainId>,
}

impl Work {
    fn run(self) -> Result<()> {
        self.keep_blob()?;
        let lookup = self.shared.snapshotter.layer(&self.chain);
        if lookup
            .map_err(Error::layer("look up", &self.chain))?
            .is_some()
        {
            return Ok(());
        }
        self.unpack()
    }

    fn keep_blob(&self) -> Result<()> {
        let failed = Error::content("store a layer");
        let (content, digest) = (&self.shared.content, &self.descriptor.digest);
        if content.has(digest).map_err(&failed)? == Some(self.descriptor.size) {
            return Ok(());
        }
        let size = Some(self.descriptor.size);
        let mut ingest = content
            .ingest_within(digest, size, BUSY_PATIENCE)
            .map_err(&failed)?;
        ingest.restart().map_err(&failed)?;
        let mut reader = self.archive.reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            match reader.read(&mut buffer).map_err(reading)? {
                0 => break,
                count => ingest
                    .write(buffer.get(..count).unwrap_or_default())
                    .map_err(&failed)?,
            }
        }
        ingest.commit().map(drop).map_err(&failed)
    }

    fn unpack(&self) -> Result<()> {
        let unpacking = Unpacking {
            chain: &self.chain,
            parent: self.parent.as_ref(),
            digest: &self.descriptor.digest,
            diff_id: &self.diff_id,
        };
        let (draft, applied) = unpacking.draft(&self.shared, self.archive.reader())?;
        let committed = self
            .shared
            .snapshotter
            .commit(draft, unpacking.info(applied)?);
        committed.map_err(Error::layer("commit", &self.chain))
    }
}

fn measure(archive: &Section) -> Result<Measured> {
    let (digest, size) = hash(archive.reader())?;
    let decoder = Decoder::new(archive.reader(), Default::default()).map_err(reading)?;
    let compression = decoder.compression();
    let media_type = media_type(compression);
    let diff_id = match compression {
        Compression::None => digest.clone(),
        Compression::Gzip | Compression::Zstd => hash(decoder)?.0,
    };
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
    };
    Ok(Measured {
        descriptor,
        diff_id,
    })
}

fn media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

fn hash(mut reader: impl Read) -> Result<(Digest, u64)> {
    let mut hasher = berth_content::Hasher::new(berth_names::Algorithm::Sha256);
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        match reader.read(&mut buffer).map_err(reading)? {
            0 => return Ok((hasher.finish(), size)),
            count => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                size += count as u64;
            }
        }
    }
}

pub(crate) fn reading(source: std::io::Error) -> Error {
    Error::Archive {
        operation: "reading a layer",
        source,
    }
}
