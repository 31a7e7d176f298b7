use berth_names::{Algorithm, Digest};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{Error, Result};

/// The manifest formats that are asked for.
pub mod media_type {
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
}
use media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

/// `Accept` of a manifest request. Some registries answer 404 or 406 to artifacts without `*/*`.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

const SCHEMA1_TYPES: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// A manifest or an index, as the registry stores it. The digest was computed from the bytes.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub digest: Digest,
    /// One of [`media_type`], or another that the document itself names.
    pub media_type: String,
    /// Length of `bytes`.
    pub size: u64,
    pub bytes: Bytes,
}

impl Resolved {
    /// Whether this lists manifests per platform instead of being one.
    pub fn is_index(&self) -> bool {
        [OCI_INDEX, DOCKER_LIST].contains(&self.media_type.as_str())
    }
}

/// The fields that tell formats apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// Verifies a manifest's bytes and finds out what they are. `expected` is the digest it was asked
/// for by; without one (a tag) the digest is computed.
pub(crate) fn examine(
    what: &str,
    host: &str,
    content_type: Option<&str>,
    expected: Option<&Digest>,
    bytes: Bytes,
) -> Result<Resolved> {
    let digest = match expected {
        Some(expected) if expected.matches(&bytes) => expected.clone(),
        Some(expected) => {
            return Err(Error::DigestMismatch {
                what: what.to_owned(),
                host: host.to_owned(),
                expected: expected.clone(),
                actual: Digest::sha256_of(&bytes),
            });
        }
        None => Digest::sha256_of(&bytes),
    };
    debug_assert!(expected.is_some() || digest.algorithm() == Algorithm::Sha256);
    let bad = |reason: String| Error::BadManifest {
        what: what.to_owned(),
        host: host.to_owned(),
        reason,
    };
    let content_type = content_type.map(essence);
    if content_type
        .as_deref()
        .is_some_and(|t| SCHEMA1_TYPES.contains(&t))
    {
        return Err(Error::Schema1 {
            what: what.to_owned(),
        });
    }
    let shape: Shape = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if shape.schema_version == Some(1) || shape.fs_layers.is_some() {
        return Err(Error::Schema1 {
            what: what.to_owned(),
        });
    }
    let media_type = kind(&shape, content_type.as_deref()).map_err(bad)?;
    Ok(Resolved {
        digest,
        media_type,
        size: bytes.len() as u64,
        bytes,
    })
}

/// Decides the media type. A document that could be taken for both an index and a manifest, or
/// that is served as something else than it says, would be read differently by different clients
/// (CVE-2021-41190): it is refused.
fn kind(shape: &Shape, content_type: Option<&str>) -> Result<String, String> {
    let is_index = shape.manifests.is_some();
    let is_manifest = shape.layers.is_some() || shape.config.is_some();
    if is_index && is_manifest {
        return Err("it has the fields of an index and of a manifest".to_owned());
    }
    if !is_index && !is_manifest {
        return Err("it has the fields of neither an index nor a manifest".to_owned());
    }
    let served = content_type.filter(|t| is_known(t));
    let media_type = match (
        shape.media_type.as_deref().filter(|t| !t.is_empty()),
        served,
    ) {
        (Some(own), Some(served)) if own != served => {
            return Err(format!(
                "it says that it is {own:?} but was served as {served:?}"
            ));
        }
        (Some(own), _) => own,
        (None, Some(served)) => served,
        (None, None) if is_index => OCI_INDEX,
        (None, None) => OCI_MANIFEST,
    };
    let fits = match media_type {
        OCI_INDEX | DOCKER_LIST => is_index,
        OCI_MANIFEST | DOCKER_MANIFEST => is_manifest,
        _ => true,
    };
    match fits {
        true => Ok(media_type.to_owned()),
        false => Err(format!("its fields are not those of {media_type:?}")),
    }
}

fn is_known(media_type: &str) -> bool {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].contains(&media_type)
}

/// A content type without its parameters.
fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examined(content_type: Option<&str>, text: &str) -> Result<Resolved> {
        examine(
            "r:t",
            "h",
            content_type,
            None,
            Bytes::copy_from_slice(text.as_bytes()),
        )
    }

    #[test]
    fn the_media_type_is_found_however_it_is_told() {
        let cases = [
            (Some(OCI_INDEX), r#"{"manifests":[]}"#, OCI_INDEX),
            (Some("application/json"), r#"{"manifests":[]}"#, OCI_INDEX),
            (None, r#"{"config":{},"layers":[]}"#, OCI_MANIFEST),
            (
                Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
                r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
                DOCKER_MANIFEST,
            ),
            (
                Some("text/plain"),
                r#"{"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[]}"#,
                DOCKER_LIST,
            ),
        ];
        for (content_type, text, expected) in cases {
            let resolved = examined(content_type, text).unwrap();
            assert_eq!(resolved.media_type, expected, "{text}");
            assert_eq!(resolved.is_index(), text.contains("manifests"));
            assert_eq!(resolved.digest, Digest::sha256_of(text.as_bytes()));
        }
    }

    #[test]
    fn ambiguous_or_broken_documents_are_refused() {
        let cases = [
            (None, ""),
            (None, "[]"),
            (None, "{}"),
            (None, "{\"manifests\":[]"),
            (None, r#"{"manifests":[],"layers":[]}"#),
            (None, r#"{"manifests":[],"config":{}}"#),
            (Some(OCI_INDEX), r#"{"layers":[],"config":{}}"#),
            (Some(OCI_MANIFEST), r#"{"manifests":[]}"#),
            (
                Some(OCI_INDEX),
                r#"{"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[]}"#,
            ),
            (
                None,
                r#"{"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#,
            ),
        ];
        for (content_type, text) in cases {
            let error = examined(content_type, text).unwrap_err();
            assert!(
                matches!(error, Error::BadManifest { .. }),
                "{text}: {error:?}"
            );
        }
        let deep = format!(
            "{{\"manifests\":{}{}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        // Neither accepted fields nor their depth matter: it must not exhaust the stack.
        let _ = examined(None, &deep);
    }

    #[test]
    fn schema_1_is_named() {
        let cases = [
            (Some(SCHEMA1_TYPES[1]), "anything"),
            (Some(SCHEMA1_TYPES[0]), "{}"),
            (
                Some("application/json"),
                r#"{"schemaVersion":1,"fsLayers":[]}"#,
            ),
        ];
        for (content_type, text) in cases {
            let error = examined(content_type, text).unwrap_err();
            assert!(matches!(error, Error::Schema1 { .. }), "{text}: {error:?}");
        }
    }

    #[test]
    fn bytes_are_held_against_the_digest_before_they_are_parsed() {
        let expected = Digest::sha256_of(b"other");
        let error = examine("r", "h", None, Some(&expected), Bytes::from_static(b"{")).unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
    }
}
