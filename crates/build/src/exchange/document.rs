//! The document itself: layers by number, and records of steps that name what they follow and which
//! layer they made. Pure.
//!
//! A step that changed the config alone has a chain without layers: its moment is what is known of it.

use std::collections::{HashMap, HashSet};

use berth_names::{Algorithm, Digest};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::trace::Plan;
use crate::error::{Error, Result};

pub const MEDIA_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Where an image's config has its records, in base64.
pub const FIELD: &str = "moby.buildkit.cache.v0";
/// Bytes of a document.
pub const LARGEST: u64 = 16 << 20;
const MOST_LAYERS: usize = 20_000;
const MOST_RECORDS: usize = 100_000;
/// Bytes of a layer's archive.
const LARGEST_LAYER: u64 = 32 << 30;
/// The parent of a layer that has none.
const NONE: i64 = -1;

/// The outcome of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When it was made (RFC 3339): part of the image's config.
    pub created: String,
    /// None where it changed the config alone.
    pub layer: Option<Layer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub blob: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Of the archive in the blob.
    pub diff_id: Digest,
}

/// A layer as it was written for a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub media_type: String,
    pub layer: Layer,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Whole {
    #[serde(default)]
    layers: Vec<RawLayer>,
    #[serde(default)]
    records: Vec<RawRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RawLayer {
    #[serde(default)]
    blob: String,
    #[serde(default)]
    parent: i64,
    #[serde(default)]
    annotations: Option<RawAnnotations>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawAnnotations {
    media_type: String,
    #[serde(rename = "diffID")]
    diff_id: String,
    size: u64,
    created_at: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct RawRecord {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<RawResult>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chains: Vec<RawChain>,
    digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<Vec<RawInput>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawResult {
    #[serde(default)]
    layer: i64,
    #[serde(default)]
    created_at: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawChain {
    #[serde(default)]
    layers: Vec<i64>,
    #[serde(default)]
    created_at: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct RawInput {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    selector: String,
    #[serde(default)]
    link: i64,
}

/// What a document says of steps, by their keys. `offered` are the blobs that its manifest names,
/// with their sizes: a step whose layer is not among them is left out.
///
/// # Errors
/// If it is no such document, or contradicts itself.
pub fn read(bytes: &[u8], offered: &HashMap<Digest, u64>) -> Result<HashMap<Digest, Step>> {
    let whole: Whole = parse(bytes)?;
    within("layers", whole.layers.len(), MOST_LAYERS)?;
    check_parents(&whole.layers)?;
    let layers: Vec<Option<Layer>> = whole
        .layers
        .iter()
        .map(|raw| layer(raw).filter(|layer| offered.get(&layer.blob) == Some(&layer.size)))
        .collect();
    steps(&whole.records, &layers)
}

/// The same for the records in an image's config: their layers are those of the image.
///
/// # Errors
/// As [`read`] has.
pub fn read_inline(bytes: &[u8], layers: &[Layer]) -> Result<HashMap<Digest, Step>> {
    let records: Vec<RawRecord> = parse(bytes)?;
    let layers: Vec<Option<Layer>> = layers.iter().cloned().map(Some).collect();
    steps(&records, &layers)
}

fn parse<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T> {
    within(
        "bytes",
        bytes.len(),
        usize::try_from(LARGEST).unwrap_or(usize::MAX),
    )?;
    serde_json::from_slice(bytes).map_err(|error| Error::invalid(format!("its document: {error}")))
}

fn within(what: &str, count: usize, most: usize) -> Result<()> {
    match count > most {
        true => Err(Error::invalid(format!(
            "{count} {what} are more than {most}"
        ))),
        false => Ok(()),
    }
}

fn layer(raw: &RawLayer) -> Option<Layer> {
    let annotations = raw.annotations.as_ref()?;
    let of = |text: &str| {
        let digest = Digest::parse(text).ok()?;
        (digest.algorithm() == Algorithm::Sha256).then_some(digest)
    };
    Some(Layer {
        blob: of(&raw.blob)?,
        size: Some(annotations.size).filter(|size| *size <= LARGEST_LAYER)?,
        diff_id: of(&annotations.diff_id)?,
    })
}

/// Every layer leads down to one without a parent.
fn check_parents(layers: &[RawLayer]) -> Result<()> {
    let wrong = |number: usize, problem: &str| {
        Err(Error::invalid(format!(
            "layer {number} of its document {problem}"
        )))
    };
    let mut is_grounded = vec![false; layers.len()];
    for number in 0..layers.len() {
        let (mut at, mut path) = (number, Vec::new());
        while !is_grounded.get(at).copied().unwrap_or(true) {
            path.push(at);
            if path.len() > layers.len() {
                return wrong(number, "stands on itself");
            }
            let parent = layers.get(at).map_or(NONE, |layer| layer.parent);
            if parent == NONE {
                break;
            }
            match usize::try_from(parent) {
                Ok(parent) if parent < layers.len() => at = parent,
                _ => return wrong(at, "stands on one that is not there"),
            }
        }
        for passed in path {
            if let Some(grounded) = is_grounded.get_mut(passed) {
                *grounded = true;
            }
        }
    }
    Ok(())
}

fn steps(records: &[RawRecord], layers: &[Option<Layer>]) -> Result<HashMap<Digest, Step>> {
    within("records", records.len(), MOST_RECORDS)?;
    check_links(records)?;
    let mut steps = HashMap::new();
    for (number, record) in records.iter().enumerate() {
        let Ok(key) = Digest::parse(&record.digest) else {
            let problem = format!("record {number} of its document has no digest");
            return Err(Error::invalid(problem));
        };
        let Some(step) = step(number, record, layers)? else {
            continue;
        };
        steps.entry(key).or_insert(step);
    }
    Ok(steps)
}

fn step(number: usize, record: &RawRecord, layers: &[Option<Layer>]) -> Result<Option<Step>> {
    let of = |index: i64| {
        let index = usize::try_from(index).ok();
        let found = index.and_then(|index| layers.get(index));
        found.ok_or_else(|| {
            Error::invalid(format!(
                "record {number} of its document has a layer that is not there"
            ))
        })
    };
    for index in record.chains.iter().flat_map(|chain| &chain.layers) {
        of(*index)?;
    }
    if let Some(result) = record.layers.first() {
        let layer = of(result.layer)?.clone();
        let created = moment(&result.created_at);
        return Ok(layer.zip(created).map(|(layer, created)| Step {
            created,
            layer: Some(layer),
        }));
    }
    // More than one layer in a step is what other builders make.
    let alone = record
        .chains
        .first()
        .filter(|chain| chain.layers.is_empty());
    let created = alone.and_then(|chain| moment(&chain.created_at));
    Ok(created.map(|created| Step {
        created,
        layer: None,
    }))
}

/// A moment as it is written, if it is one.
fn moment(text: &str) -> Option<String> {
    const LONGEST: usize = 40;
    let known = text.len() <= LONGEST && OffsetDateTime::parse(text, &Rfc3339).is_ok();
    known.then(|| text.to_owned())
}

/// No record follows itself, however many are in between.
fn check_links(records: &[RawRecord]) -> Result<()> {
    let links = |number: usize| {
        let inputs = records.get(number).into_iter();
        inputs.flat_map(|record| record.inputs.iter().flatten().map(|input| input.link))
    };
    // What is counted down to zero leads to the beginning.
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); records.len()];
    let mut waits_for = vec![0_usize; records.len()];
    for number in 0..records.len() {
        for link in links(number).collect::<HashSet<_>>() {
            let before = usize::try_from(link).ok();
            let Some(known) = before.and_then(|before| followers.get_mut(before)) else {
                return Err(Error::invalid(format!(
                    "record {number} of its document follows one that is not there"
                )));
            };
            known.push(number);
            if let Some(count) = waits_for.get_mut(number) {
                *count += 1;
            }
        }
    }
    let mut ready: Vec<usize> = (0..records.len())
        .filter(|number| waits_for.get(*number) == Some(&0))
        .collect();
    let mut done = 0;
    while let Some(number) = ready.pop() {
        done += 1;
        for follower in followers.get(number).into_iter().flatten() {
            if let Some(count) = waits_for.get_mut(*follower) {
                *count -= 1;
                if *count == 0 {
                    ready.push(*follower);
                }
            }
        }
    }
    match done == records.len() {
        true => Ok(()),
        false => Err(Error::invalid("records of its document follow themselves")),
    }
}

/// The document of a cache. `written` are the layers of the plan, in its order.
pub fn write(plan: &Plan, written: &[Written]) -> Vec<u8> {
    let layers = plan.layers.iter().zip(written);
    let layers = layers.map(|(planned, written)| RawLayer {
        blob: written.layer.blob.to_string(),
        parent: index(planned.parent),
        annotations: Some(RawAnnotations {
            media_type: written.media_type.clone(),
            diff_id: written.layer.diff_id.to_string(),
            size: written.layer.size,
            created_at: planned.created.clone(),
        }),
    });
    let whole = Whole {
        layers: layers.collect(),
        records: records(plan, Some),
    };
    serde_json::to_vec(&whole).unwrap_or_default()
}

/// The records for an image's config. `place` says where in the image a layer of the plan is.
pub fn write_inline(plan: &Plan, place: impl Fn(usize) -> Option<usize>) -> Vec<u8> {
    serde_json::to_vec(&records(plan, place)).unwrap_or_default()
}

fn records(plan: &Plan, place: impl Fn(usize) -> Option<usize>) -> Vec<RawRecord> {
    let all = plan.records.iter().map(|record| {
        let mut raw = RawRecord {
            digest: record.key.to_string(),
            ..RawRecord::default()
        };
        if let Some(parent) = record.parent {
            raw.inputs.push(vec![RawInput {
                selector: String::new(),
                link: index(Some(parent)),
            }]);
        }
        let Some(created) = &record.created else {
            return raw;
        };
        match record.layer.map(&place) {
            None => raw.chains.push(RawChain {
                layers: Vec::new(),
                created_at: created.clone(),
            }),
            Some(Some(place)) => raw.layers.push(RawResult {
                layer: index(Some(place)),
                created_at: created.clone(),
            }),
            Some(None) => {}
        }
        raw
    });
    all.collect()
}

fn index(number: Option<usize>) -> i64 {
    number.map_or(NONE, |number| i64::try_from(number).unwrap_or(NONE))
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
