//! Indexes, manifests and configs: from untrusted JSON to what a pull needs. Pure.

use berth_names::{ChainId, Digest};
use berth_registry::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::image::ImageConfig;
use crate::platform::Platform;
use crate::{Error, Result, values};

/// OverlayFS stacks no more.
pub(crate) const MAX_LAYERS: usize = 500;
/// Entries of an index; each costs a little work, so that there is a limit.
const MAX_MANIFESTS: usize = 1000;
/// Bytes of a manifest or index.
pub(crate) const MAX_MANIFEST: u64 = 8 << 20;
/// Bytes of a config.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// Bytes of one compressed layer: more than any disk here holds is a mistake or a lie.
const MAX_LAYER: u64 = 1 << 40;

/// Of an image's config: OCI's, which is what is written here, and Docker's.
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const CONFIG_TYPES: [&str; 2] =
    [OCI_CONFIG, "application/vnd.docker.container.image.v1+json"];

/// Layers that are tar archives. What they are compressed with is seen from their first bytes.
const LAYER_TYPES: [&str; 9] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// A pointer to a blob, as documents write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

/// One entry of an index.
#[derive(Debug)]
struct Entry {
    descriptor: Descriptor,
    platform: Option<Platform>,
}

#[derive(Debug)]
pub(crate) struct Manifest {
    pub config: Descriptor,
    /// Bottom to top.
    pub layers: Vec<Descriptor>,
}

/// One layer of an image, with its place in the stack.
#[derive(Debug, Clone)]
pub(crate) struct LayerPlan {
    pub descriptor: Descriptor,
    pub diff_id: Digest,
    pub chain_id: ChainId,
    pub parent: Option<ChainId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawDescriptor {
    #[serde(default)]
    pub media_type: Option<String>,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

impl RawDescriptor {
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name)?.as_str()
    }
}

/// The fields of every format at once: what a document has decides what it is, and a document
/// with the fields of two is refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    pub artifact_type: Option<String>,
    pub config: Option<RawDescriptor>,
    pub layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<IgnoredAny>,
}

/// Whether a media type says that the document is an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    [OCI_INDEX, DOCKER_LIST].contains(&media_type)
}

/// Chooses from an index what `host` runs. The registry's order decides among equals.
pub(crate) fn choose(
    reference: &str,
    digest: &Digest,
    media_type: &str,
    bytes: &[u8],
    host: &Platform,
) -> Result<Descriptor> {
    const INDEX: &str = "index";
    let document = parse(INDEX, digest, media_type, bytes)?;
    if document.layers.is_some() || document.config.is_some() {
        return Err(Error::invalid(INDEX, digest, "layers", "an index has none"));
    }
    let manifests = document
        .manifests
        .ok_or_else(|| Error::invalid(INDEX, digest, "manifests", "the field is missing"))?;
    if manifests.len() > MAX_MANIFESTS {
        let problem = format!("{} are more than {MAX_MANIFESTS}", manifests.len());
        return Err(Error::invalid(INDEX, digest, "manifests", problem));
    }
    let mut entries = Vec::with_capacity(manifests.len());
    for (number, raw) in manifests.into_iter().enumerate() {
        if is_attestation(&raw) {
            continue;
        }
        let field = format!("manifests[{number}]");
        let platform = raw.platform.clone();
        let descriptor = descriptor(INDEX, digest, &field, raw)?;
        let known = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST, ""];
        if known.contains(&descriptor.media_type.as_str()) {
            entries.push(Entry {
                descriptor,
                platform,
            });
        }
    }
    let rank = |entry: &Entry| match &entry.platform {
        Some(platform) => host.rank(platform),
        // Says nothing: the config will, if nothing better is there.
        None => Some(u8::MAX),
    };
    let best = entries
        .iter()
        .filter_map(|entry| Some((rank(entry)?, entry)));
    match best.min_by_key(|(rank, _)| *rank) {
        Some((_, entry)) => Ok(entry.descriptor.clone()),
        None => Err(no_platform(
            reference,
            host,
            entries.iter().map(|e| e.platform.as_ref()),
        )),
    }
}

fn no_platform<'a>(
    reference: &str,
    host: &Platform,
    offered: impl Iterator<Item = Option<&'a Platform>>,
) -> Error {
    const SHOWN: usize = 12;
    let mut names: Vec<String> = offered.flatten().map(Platform::to_string).collect();
    names.dedup();
    names.truncate(SHOWN);
    let offered = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    };
    Error::NoPlatform {
        reference: reference.to_owned(),
        wanted: host.to_string(),
        offered,
    }
}

/// Build attestations stand in indexes as manifests for no platform.
fn is_attestation(raw: &RawDescriptor) -> bool {
    let unknown = raw
        .platform
        .as_ref()
        .is_some_and(|platform| platform.os == "unknown" || platform.architecture == "unknown");
    let annotated = raw.annotation("vnd.docker.reference.type") == Some("attestation-manifest");
    unknown || annotated
}

/// What a manifest says that it is; OCI's may leave it out.
pub(crate) fn media_type(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let typed: Option<Typed> = serde_json::from_slice(bytes).ok();
    let told = typed.and_then(|typed| typed.media_type);
    told.unwrap_or_else(|| OCI_MANIFEST.to_owned())
}

/// What an OCI manifest calls a layer that Docker's may have named.
pub(crate) fn oci_type(media_type: &str) -> &str {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        }
        other => other,
    }
}

/// Reads an image manifest.
pub(crate) fn manifest(digest: &Digest, media_type: &str, bytes: &[u8]) -> Result<Manifest> {
    const MANIFEST: &str = "manifest";
    let invalid = |field: &str, problem: String| Error::invalid(MANIFEST, digest, field, problem);
    let document = parse(MANIFEST, digest, media_type, bytes)?;
    if document.manifests.is_some() {
        return Err(invalid("manifests", "a manifest has none".to_owned()));
    }
    let missing = |field: &str| invalid(field, "the field is missing".to_owned());
    let config = document.config.ok_or_else(|| missing("config"))?;
    let config = descriptor(MANIFEST, digest, "config", config)?;
    if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
        let problem = format!("{:?} is no container image", clip(&config.media_type));
        return Err(invalid("config.mediaType", problem));
    }
    if config.size > MAX_CONFIG {
        return Err(invalid(
            "config.size",
            format!("{} is more than {MAX_CONFIG}", config.size),
        ));
    }
    let layers = document.layers.ok_or_else(|| missing("layers"))?;
    if layers.len() > MAX_LAYERS {
        return Err(invalid(
            "layers",
            format!("{} are more than {MAX_LAYERS}", layers.len()),
        ));
    }
    let layers = layers
        .into_iter()
        .enumerate()
        .map(|(number, raw)| layer(digest, number, raw))
        .collect::<Result<Vec<_>>>()?;
    let total = layers
        .iter()
        .try_fold(0u64, |sum, layer| sum.checked_add(layer.size));
    match total {
        Some(total) if total <= MAX_LAYER => Ok(Manifest { config, layers }),
        _ => Err(invalid(
            "layers",
            format!("together they have more than {MAX_LAYER} bytes"),
        )),
    }
}

fn layer(digest: &Digest, number: usize, raw: RawDescriptor) -> Result<Descriptor> {
    let field = format!("layers[{number}]");
    let layer = descriptor("manifest", digest, &field, raw)?;
    if LAYER_TYPES.contains(&layer.media_type.as_str()) {
        return Ok(layer);
    }
    let problem = match layer.media_type.ends_with("+encrypted") {
        true => "encrypted layers are not supported".to_owned(),
        false => format!("{:?} is no layer archive", clip(&layer.media_type)),
    };
    Err(Error::invalid(
        "manifest",
        digest,
        format!("{field}.mediaType"),
        problem,
    ))
}

/// Reads a config, and lines its layers up with those of the manifest. Without `host` the image may
/// be for any platform.
pub(crate) fn plan(
    reference: &str,
    manifest: &Manifest,
    bytes: &[u8],
    host: Option<&Platform>,
) -> Result<(ImageConfig, Vec<LayerPlan>)> {
    #[derive(Deserialize)]
    struct WithRootfs {
        #[serde(flatten)]
        config: ImageConfig,
        rootfs: Rootfs,
    }
    #[derive(Deserialize)]
    struct Rootfs {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        diff_ids: Option<Vec<Digest>>,
    }
    let digest = &manifest.config.digest;
    let invalid = |field: &str, problem: String| Error::invalid("config", digest, field, problem);
    values::check("config", digest, bytes)?;
    let WithRootfs { config, rootfs } =
        serde_json::from_slice(bytes).map_err(|error| invalid("JSON", error.to_string()))?;
    if rootfs.kind != "layers" {
        return Err(invalid(
            "rootfs.type",
            format!("{:?} is not \"layers\"", clip(&rootfs.kind)),
        ));
    }
    // Old builders left the platform out; they built for the machine they ran on.
    if let (Some(host), Some(platform)) = (host, config.platform())
        && !host.runs(&platform)
    {
        return Err(no_platform(reference, host, [Some(&platform)].into_iter()));
    }
    let diff_ids = rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() != manifest.layers.len() {
        let problem = format!(
            "{} for {} layers of the manifest",
            diff_ids.len(),
            manifest.layers.len()
        );
        return Err(invalid("rootfs.diff_ids", problem));
    }
    let chain = ChainId::stack(&diff_ids);
    let parents = std::iter::once(None).chain(chain.iter().cloned().map(Some));
    let layers = manifest
        .layers
        .iter()
        .zip(&diff_ids)
        .zip(&chain)
        .zip(parents)
        .map(|(((descriptor, diff_id), chain_id), parent)| LayerPlan {
            descriptor: descriptor.clone(),
            diff_id: diff_id.clone(),
            chain_id: chain_id.clone(),
            parent,
        })
        .collect();
    Ok((config, layers))
}

pub(crate) fn parse(
    kind: &'static str,
    digest: &Digest,
    media_type: &str,
    bytes: &[u8],
) -> Result<Document> {
    let invalid = |field: &str, problem: String| Error::invalid(kind, digest, field, problem);
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(invalid(
            "size",
            format!("{} is more than {MAX_MANIFEST}", bytes.len()),
        ));
    }
    values::check(kind, digest, bytes)?;
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| invalid("JSON", error.to_string()))?;
    if document.schema_version == Some(1) || document.fs_layers.is_some() {
        let problem = "Docker schema 1 has no content digests and is not supported";
        return Err(invalid("schemaVersion", problem.to_owned()));
    }
    if document.schema_version != Some(2) {
        return Err(invalid("schemaVersion", "it must be 2".to_owned()));
    }
    match document.media_type.as_deref() {
        // A pointer or a server says one thing, the document another: tools would disagree.
        Some(own) if !own.is_empty() && !media_type.is_empty() && own != media_type => {
            let problem = format!("{:?} was announced as {:?}", clip(own), clip(media_type));
            Err(invalid("mediaType", problem))
        }
        _ => Ok(document),
    }
}

pub(crate) fn descriptor(
    kind: &'static str,
    document: &Digest,
    field: &str,
    raw: RawDescriptor,
) -> Result<Descriptor> {
    let digest = Digest::parse(&raw.digest).map_err(|error| {
        Error::invalid(kind, document, format!("{field}.digest"), error.to_string())
    })?;
    if raw.size > MAX_LAYER {
        let problem = format!("{} is more than {MAX_LAYER}", raw.size);
        return Err(Error::invalid(
            kind,
            document,
            format!("{field}.size"),
            problem,
        ));
    }
    Ok(Descriptor {
        media_type: raw.media_type.unwrap_or_default(),
        digest,
        size: raw.size,
    })
}

/// Messages quote a document only so far.
pub(crate) fn clip(text: &str) -> &str {
    text.char_indices()
        .nth(100)
        .map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
