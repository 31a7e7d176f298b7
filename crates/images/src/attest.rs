//! Attestations: what is said of an image, of how it was made and what is in it, beside the image.
//!
//! What is said (a predicate) is kept with the image. It becomes documents where the image leaves for a
//! place that can hold them, because they name the image's manifest, which is another one where layers
//! are compressed on the way:
//!
//! ```text
//! index ─┬─► manifest of the image
//!        └─► manifest for unknown/unknown ─► in-toto statements: subject, predicate
//! ```

use std::sync::Arc;
use std::time::SystemTime;

use berth_metadata::schema::{AttestationRecord, IMAGES, ImageRecord};
use berth_names::{Digest, ImageRef};
use berth_registry::media_type::OCI_MANIFEST;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::holds::Item;
use crate::images::{Shared, blocking};
use crate::index::Entry;
use crate::manifest::OCI_CONFIG;
use crate::platform::Platform;
use crate::{Error, Images, Result};

const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const IN_TOTO: &str = "application/vnd.in-toto+json";
/// Bytes of a predicate.
const MAX_PREDICATE: u64 = 64 << 20;

/// Something that is said of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Attestation {
    /// A URI that says what the predicate is.
    pub predicate_type: String,
    pub predicate: Value,
}

/// The image that attestations are about, as a place has it.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub entry: &'a Entry,
    /// The names that it has there.
    pub names: &'a [ImageRef],
}

/// A document with its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub digest: Digest,
    pub bytes: Bytes,
}

/// What a place gets besides the image.
#[derive(Debug)]
pub(crate) struct Attested {
    /// Statements and their config.
    pub blobs: Vec<Written>,
    pub manifest: Written,
}

impl Attested {
    /// What stands in the index beside the image.
    pub fn entry(&self, image: &Entry) -> Entry {
        let unknown = || "unknown".to_owned();
        Entry {
            media_type: OCI_MANIFEST.to_owned(),
            digest: self.manifest.digest.clone(),
            size: self.manifest.bytes.len() as u64,
            platform: Platform {
                os: unknown(),
                architecture: unknown(),
                variant: String::new(),
            },
            about: Some(image.digest.clone()),
        }
    }
}

impl Images {
    /// What is said of an image from now on, in place of what was said before. It goes where the image
    /// is pushed.
    ///
    /// # Errors
    /// If the image is not here, or more is said than can be kept.
    pub async fn attest(&self, image: &Digest, said: Vec<Attestation>) -> Result<()> {
        let shared = &self.shared;
        let mut written = Vec::new();
        let mut records = Vec::new();
        for one in said {
            let predicate = document(&one.predicate);
            let size = predicate.bytes.len() as u64;
            if size > MAX_PREDICATE {
                let problem = format!("{size} bytes are more than {MAX_PREDICATE}");
                return Err(Error::invalid("attestation", image, "predicate", problem));
            }
            records.push(AttestationRecord {
                predicate_type: one.predicate_type,
                predicate: predicate.digest.clone(),
            });
            written.push(predicate);
        }
        let blobs = written.iter().map(|one| Item::Blob(one.digest.clone()));
        // Until the record keeps them.
        let _hold = shared.holds.hold(blobs.collect()).await;
        let content = shared.content.clone();
        blocking("store attestations", move || {
            written.iter().try_for_each(|one| {
                let stored = content.put(&one.digest, &one.bytes);
                stored.map_err(Error::content("store an attestation"))
            })
        })
        .await?;
        let id = image.clone();
        let gone = Error::invalid("image", image, "record", "it was removed meanwhile");
        let is_known = shared.change(move |catalog, batch| {
            let Some(record) = catalog.record(&id) else {
                return Ok((catalog.clone(), false));
            };
            let record = replaced(record, records);
            batch.put(IMAGES, &id, &record)?;
            Ok((catalog.with(&id, record, &[]), true))
        });
        match is_known.await? {
            true => Ok(()),
            false => Err(gone),
        }
    }

    /// Whether something is said of an image.
    pub fn is_attested(&self, image: &Digest) -> bool {
        let catalog = self.shared.catalog();
        let record = catalog.record(image);
        record.is_some_and(|record| !record.attestations.is_empty())
    }
}

fn replaced(record: &ImageRecord, attestations: Vec<AttestationRecord>) -> ImageRecord {
    let mut next = record.clone();
    let said =
        |all: &[AttestationRecord], blob: &Digest| all.iter().any(|one| one.predicate == *blob);
    next.blobs.retain(|blob| !said(&record.attestations, blob));
    next.blobs
        .extend(attestations.iter().map(|one| one.predicate.clone()));
    next.blobs.sort();
    next.blobs.dedup();
    next.attestations = attestations;
    next.pulled_at = SystemTime::now();
    next
}

/// Reads what is said of an image.
pub(crate) async fn said(shared: &Arc<Shared>, record: &ImageRecord) -> Result<Vec<Attestation>> {
    let (content, records) = (shared.content.clone(), record.attestations.clone());
    blocking("read attestations", move || read(&content, &records)).await
}

/// Blocking.
pub(crate) fn read(
    content: &berth_content::Store,
    records: &[AttestationRecord],
) -> Result<Vec<Attestation>> {
    let all = records.iter().map(|record| {
        let bytes = content.read(&record.predicate, MAX_PREDICATE);
        let bytes = bytes.map_err(Error::content("read an attestation"))?;
        let predicate = serde_json::from_slice(&bytes).map_err(|error| {
            let problem = error.to_string();
            Error::invalid("attestation", &record.predicate, "JSON", problem)
        })?;
        Ok(Attestation {
            predicate_type: record.predicate_type.clone(),
            predicate,
        })
    });
    all.collect()
}

fn document(value: &Value) -> Written {
    let bytes = Bytes::from(value.to_string());
    Written {
        digest: Digest::sha256_of(&bytes),
        bytes,
    }
}

/// The documents for a place that has the image with this manifest. Pure: the same give the same.
pub(crate) fn attested(subject: &Subject<'_>, said: &[Attestation]) -> Attested {
    let about = subjects(subject);
    let mut blobs: Vec<Written> = Vec::new();
    let mut layers = Vec::new();
    for one in said {
        let statement = document(&json!({
            "_type": STATEMENT,
            "subject": about,
            "predicateType": one.predicate_type,
            "predicate": one.predicate,
        }));
        layers.push(json!({
            "mediaType": IN_TOTO,
            "digest": statement.digest,
            "size": statement.bytes.len(),
            "annotations": { "in-toto.io/predicate-type": one.predicate_type },
        }));
        blobs.push(statement);
    }
    let diff_ids: Vec<&Digest> = blobs.iter().map(|blob| &blob.digest).collect();
    let config = document(&json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }));
    let manifest = document(&json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": config.digest, "size": config.bytes.len() },
        "layers": layers,
    }));
    blobs.push(config);
    Attested { blobs, manifest }
}

/// The image by each of its names, as package URLs.
fn subjects(subject: &Subject<'_>) -> Vec<Value> {
    let Entry {
        digest, platform, ..
    } = subject.entry;
    let digest = json!({ digest.algorithm().as_str(): digest.hex() });
    let of = |name: &str| json!({ "name": name, "digest": digest });
    if subject.names.is_empty() {
        return vec![of("_")];
    }
    let names = subject.names.iter();
    names.map(|name| of(&package_url(name, platform))).collect()
}

/// `pkg:docker/team/app@1?platform=linux%2Famd64`.
pub fn package_url(name: &ImageRef, platform: &Platform) -> String {
    let version = name.tag().map(str::to_owned);
    let version = version.or_else(|| {
        name.digest()
            .map(|digest| digest.to_string().replace(':', "%3A"))
    });
    let version = version
        .map(|version| format!("@{version}"))
        .unwrap_or_default();
    let repository = name.familiar_name().replace(':', "%3A");
    let platform = platform.to_string().replace('/', "%2F");
    format!("pkg:docker/{repository}{version}?platform={platform}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(predicate: Value) -> (Attested, Vec<Entry>) {
        let entry = Entry {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::sha256_of(b"manifest"),
            size: 8,
            platform: Platform::host(),
            about: None,
        };
        let names = [ImageRef::parse("r.example.com:5000/team/app:1").unwrap()];
        let subject = Subject {
            entry: &entry,
            names: &names,
        };
        let said = Attestation {
            predicate_type: "https://slsa.dev/provenance/v1".to_owned(),
            predicate,
        };
        let attested = attested(&subject, &[said]);
        let about = attested.entry(&entry);
        (attested, vec![entry, about])
    }

    #[test]
    fn what_is_said_stands_beside_the_image_in_an_index() {
        let (made, entries) = made(json!({ "a": 1 }));
        let parse = |written: &Written| -> Value {
            assert_eq!(written.digest, Digest::sha256_of(&written.bytes));
            serde_json::from_slice(&written.bytes).unwrap()
        };
        let index: Value = serde_json::from_slice(&crate::index::document(&entries)).unwrap();
        let manifest = parse(&made.manifest);
        let entries = index["manifests"].as_array().unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0]["platform"]["os"], "linux");
        assert!(entries[0]["annotations"].is_null());
        let image = entries[0]["digest"].as_str().unwrap();
        let notes = &entries[1]["annotations"];
        assert_eq!(notes["vnd.docker.reference.digest"], image);
        assert_eq!(notes["vnd.docker.reference.type"], "attestation-manifest");
        assert_eq!(entries[1]["platform"]["os"], "unknown");
        assert_eq!(entries[1]["digest"], made.manifest.digest.to_string());
        let statement = parse(&made.blobs[0]);
        assert_eq!(
            manifest["layers"][0]["digest"],
            made.blobs[0].digest.to_string()
        );
        assert_eq!(
            manifest["config"]["digest"],
            made.blobs[1].digest.to_string()
        );
        assert_eq!(statement["_type"], STATEMENT);
        assert_eq!(statement["predicate"]["a"], 1);
        let hex = image.trim_start_matches("sha256:");
        assert_eq!(statement["subject"][0]["digest"]["sha256"], hex);
        let name = statement["subject"][0]["name"].as_str().unwrap();
        assert!(name.starts_with("pkg:docker/r.example.com%3A5000/team/app@1?platform=linux%2F"));
    }

    #[test]
    fn a_pull_chooses_the_image_and_not_what_is_said_of_it() {
        let (_, entries) = made(json!({}));
        let bytes = crate::index::document(&entries);
        let digest = Digest::sha256_of(&bytes);
        let (index, host) = (berth_registry::media_type::OCI_INDEX, Platform::host());
        let chosen = crate::manifest::choose("r:1", &digest, index, &bytes, &host).unwrap();
        assert_eq!(chosen.digest, Digest::sha256_of(b"manifest"));
    }
}
