//! What a build went through, for caches that are made of it. Deciding what goes into one is pure.

use std::collections::HashMap;

use berth_names::Digest;
use parking_lot::Mutex;

/// A step that was carried out, or taken from a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    pub key: Digest,
    /// What it follows; of a stage's first step what the stage begins with.
    pub parent: Digest,
    /// When its outcome was made; none where it has none of its own.
    pub created: Option<String>,
    /// The image that ends with its layer.
    pub image: Option<Digest>,
}

/// Steps in the order in which they ended.
#[derive(Debug, Default)]
pub struct Trace(Mutex<Vec<Traced>>);

/// What goes into a cache: what is named by number comes before what names it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub records: Vec<PlannedRecord>,
    pub layers: Vec<PlannedLayer>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct PlannedRecord {
    pub key: Digest,
    /// A record.
    pub parent: Option<usize>,
    pub created: Option<String>,
    /// A layer.
    pub layer: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct PlannedLayer {
    /// The image whose topmost layer it is.
    pub image: Digest,
    /// A layer.
    pub parent: Option<usize>,
    pub created: String,
}

impl Trace {
    pub fn add(&self, traced: Traced) {
        self.0.lock().push(traced);
    }

    /// Every step, or those alone that lead to `last`.
    pub fn plan(&self, last: &Digest, has_all_stages: bool) -> Plan {
        let traced = self.0.lock();
        match has_all_stages {
            true => plan(traced.iter()),
            false => plan(leading_to(&traced, last).into_iter()),
        }
    }
}

/// From the first to the last.
fn leading_to<'t>(traced: &'t [Traced], last: &Digest) -> Vec<&'t Traced> {
    let known: HashMap<&Digest, &Traced> = traced.iter().map(|one| (&one.key, one)).collect();
    let mut path = Vec::new();
    let mut at = last;
    // Keys are made of those before them, so that there is an end; the count says it again.
    while let Some(one) = known.get(at).filter(|_| path.len() <= traced.len()) {
        path.push(*one);
        at = &one.parent;
    }
    path.reverse();
    path
}

fn plan<'t>(traced: impl Iterator<Item = &'t Traced>) -> Plan {
    let mut plan = Plan::default();
    let mut numbers: HashMap<&Digest, usize> = HashMap::new();
    // The layer that each record ends with, its own or one below.
    let mut tops: Vec<Option<usize>> = Vec::new();
    for one in traced {
        // Two stages may begin with the same step.
        if numbers.contains_key(&one.key) {
            continue;
        }
        let parent = numbers.get(&one.parent).copied();
        let below = parent.and_then(|parent| tops.get(parent).copied().flatten());
        let layer = one.image.as_ref().zip(one.created.as_ref());
        let layer = layer.map(|(image, created)| {
            plan.layers.push(PlannedLayer {
                image: image.clone(),
                parent: below,
                created: created.clone(),
            });
            plan.layers.len() - 1
        });
        numbers.insert(&one.key, plan.records.len());
        tops.push(layer.or(below));
        plan.records.push(PlannedRecord {
            key: one.key.clone(),
            parent,
            created: one.created.clone(),
            layer,
        });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::sha256_of(text.as_bytes())
    }

    fn traced(key: &str, parent: &str, has_layer: bool) -> Traced {
        Traced {
            key: digest(key),
            parent: digest(parent),
            created: Some("2026-01-01T00:00:00Z".to_owned()),
            image: has_layer.then(|| digest(&format!("image of {key}"))),
        }
    }

    #[test]
    fn a_cache_has_the_steps_of_the_image_or_of_all_stages() {
        let trace = Trace::default();
        for one in [
            traced("tool", "base", true),
            traced("label", "base", false),
            traced("copy", "label", true),
            traced("tool", "base", true),
            traced("run", "copy", true),
        ] {
            trace.add(one);
        }
        let all = trace.plan(&digest("run"), true);
        let keys: Vec<&Digest> = all.records.iter().map(|record| &record.key).collect();
        let expected = ["tool", "label", "copy", "run"].map(digest);
        assert_eq!(keys, expected.iter().collect::<Vec<_>>());
        let parents: Vec<_> = all.records.iter().map(|record| record.parent).collect();
        assert_eq!(parents, [None, None, Some(1), Some(2)]);
        let parents: Vec<_> = all.layers.iter().map(|layer| layer.parent).collect();
        assert_eq!(parents, [None, None, Some(1)]);
        let few = trace.plan(&digest("run"), false);
        let keys: Vec<&Digest> = few.records.iter().map(|record| &record.key).collect();
        assert_eq!(keys, expected.iter().skip(1).collect::<Vec<_>>());
        assert_eq!(few.layers.len(), 2);
        assert_eq!(trace.plan(&digest("unheard of"), false), Plan::default());
    }
}
