//! Images of three shapes: a real one, many small files, many layers.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use berth_names::Digest;
use berth_testkit::image::{Compression, Layer, PackedLayer, Recipe};
use flate2::GzBuilder;

use crate::registry::Registry;

/// What Debian's packages installed on this machine: the stuff that images are made of.
const SOURCES: &[&str] = &["/usr/lib", "/usr/share", "/usr/bin", "/usr/sbin"];
/// Bytes of files, as `performance` of the field has such an image: one layer of most of it.
const LARGE: &[u64] = &[46 << 20, 1050 << 20, 46 << 20, 46 << 20, 46 << 20, 46 << 20];
const SMALL_FILES: usize = 40_000;
const SMALL_FILE: usize = 700;
const LAYERS: usize = 60;
const FILES_OF_A_LAYER: usize = 20;

pub struct Published {
    pub name: &'static str,
    pub reference: String,
    /// For people.
    pub shape: String,
}

pub fn publish(registry: &Registry) -> Result<Vec<Published>> {
    [
        ("large", large()?),
        ("files", vec![small_files()]),
        ("layers", (0..LAYERS).map(few_files).collect()),
    ]
    .into_iter()
    .map(|(name, layers)| one(registry, name, layers))
    .collect()
}

fn one(registry: &Registry, name: &'static str, layers: Vec<Layer>) -> Result<Published> {
    let packed = pack_all(&layers)?;
    let stored: usize = packed.iter().map(|layer| layer.bytes.len()).sum();
    let shape = format!(
        "{} layers, {} MiB in the registry",
        layers.len(),
        stored >> 20
    );
    let image = packed
        .into_iter()
        .fold(Recipe::new(), Recipe::layer)
        .build()?;
    let repository = format!("bench/{name}");
    registry.remote().push(&image, &repository, &["one"])?;
    Ok(Published {
        name,
        reference: format!("{}/{repository}:one", registry.address()),
        shape,
    })
}

/// Two at a time, as there are processors.
fn pack_all(layers: &[Layer]) -> Result<Vec<Arc<PackedLayer>>> {
    let mut packed = Vec::new();
    for pair in layers.chunks(2) {
        let done = thread::scope(|scope| {
            let started: Vec<_> = pair
                .iter()
                .map(|layer| scope.spawn(|| pack(layer)))
                .collect();
            let joined = started.into_iter().map(|one| {
                one.join()
                    .map_err(|_| anyhow!("packing a layer panicked"))?
            });
            joined.collect::<Result<Vec<_>>>()
        })?;
        packed.extend(done);
    }
    Ok(packed)
}

/// By gzip as registries hold it: at the usual level.
fn pack(layer: &Layer) -> Result<Arc<PackedLayer>> {
    let plain = layer.pack(Compression::Plain)?;
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), flate2::Compression::default());
    encoder.write_all(&plain.bytes).context("compressing")?;
    let bytes = encoder.finish().context("compressing")?;
    Ok(Arc::new(PackedLayer {
        diff_id: plain.diff_id,
        digest: Digest::sha256_of(&bytes),
        compression: Compression::Gzip,
        bytes,
    }))
}

fn large() -> Result<Vec<Layer>> {
    let mut files = Vec::new();
    for source in SOURCES {
        walk(Path::new(source), &mut files)?;
    }
    let mut files = files.into_iter();
    LARGE
        .iter()
        .map(|budget| {
            let mut layer = Layer::new();
            let mut bytes = 0;
            while bytes < *budget {
                let (path, size) = files.next().context("/usr is smaller than the image")?;
                layer = layer.copy(&path, &path.to_string_lossy())?;
                bytes += size;
            }
            Ok(layer)
        })
        .collect()
}

/// Ordinary files in the order of their names, no links.
fn walk(directory: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    let mut entries = fs::read_dir(directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("reading {}", directory.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let metadata = entry.metadata().context("looking at a file")?;
        if metadata.is_dir() {
            walk(&entry.path(), files)?;
        } else if metadata.is_file() {
            files.push((entry.path(), metadata.len()));
        }
    }
    Ok(())
}

fn small_files() -> Layer {
    (0..SMALL_FILES).fold(Layer::new(), |layer, number| {
        let path = format!("/srv/{:02}/{:02}/{number}", number % 50, number / 50 % 50);
        layer.file(&path, 0o644, text(number, SMALL_FILE))
    })
}

fn few_files(number: usize) -> Layer {
    (0..FILES_OF_A_LAYER).fold(Layer::new(), |layer, file| {
        let path = format!("/opt/{number}/{file}");
        layer.file(
            &path,
            0o644,
            text(number * FILES_OF_A_LAYER + file, 8 << 10),
        )
    })
}

/// As compressible as text is, and of no two the same.
fn text(number: usize, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut words = String::with_capacity(length + 16);
    while words.len() < length {
        words += &format!("{:x} ", random.u32(0..100_000));
    }
    words.truncate(length);
    words.into_bytes()
}
