//! Which steps the cache gives up: those of no use for long, and beyond so many bytes those that
//! were of no use for longest.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// How much is kept for later builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Bytes of layers that no other image has; zero for any number.
    pub bytes: u64,
    /// Seconds since a step was of use.
    pub age: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            bytes: 20 << 30,
            age: 30 * 24 * 60 * 60,
        }
    }
}

/// A step's image.
#[derive(Debug, Clone)]
pub struct Step<K, L> {
    pub key: K,
    /// When it was of use, in seconds since 1970.
    pub used: u64,
    pub layers: Vec<L>,
}

/// The keys of steps to be given up so that `most` bytes are left of layers that only steps have.
pub fn beyond<K: Clone, L: Clone + Eq + Hash>(
    mut steps: Vec<Step<K, L>>,
    held: &HashSet<L>,
    sizes: &HashMap<L, u64>,
    most: u64,
) -> Vec<K> {
    let mut users: HashMap<&L, usize> = HashMap::new();
    let own = |layer: &&L| !held.contains(*layer);
    steps.sort_by_key(|step| step.used);
    for layer in steps.iter().flat_map(|step| step.layers.iter().filter(own)) {
        *users.entry(layer).or_default() += 1;
    }
    let size = |layer: &L| sizes.get(layer).copied().unwrap_or(0);
    let mut total: u64 = users.keys().map(|layer| size(layer)).sum();
    let mut gone = Vec::new();
    for step in &steps {
        if total <= most {
            break;
        }
        for layer in step.layers.iter().filter(own) {
            if let Some(left) = users.get_mut(layer) {
                *left -= 1;
                if *left == 0 {
                    total -= size(layer);
                }
            }
        }
        gone.push(step.key.clone());
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_of_no_use_for_longest_goes_first_and_only_as_much_as_has_to() {
        let step = |key: &'static str, used, layers: &[&'static str]| Step {
            key,
            used,
            layers: layers.to_vec(),
        };
        let steps = || {
            vec![
                step("new", 30, &["base", "a", "b"]),
                step("old", 10, &["base", "x"]),
                step("middle", 20, &["base", "a"]),
            ]
        };
        let held = HashSet::from(["base"]);
        let sizes = HashMap::from([("base", 1000), ("a", 10), ("b", 20), ("x", 5)]);
        let gone = |most| beyond(steps(), &held, &sizes, most);
        assert!(gone(35).is_empty());
        assert_eq!(gone(34), ["old"]);
        // What a newer step has too is not freed with the older one.
        assert_eq!(gone(29), ["old", "middle", "new"]);
        assert_eq!(gone(30), ["old"]);
        // A layer that another image has counts for nothing.
        assert_eq!(
            beyond(vec![step("s", 1, &["base"])], &held, &sizes, 0),
            Vec::<&str>::new()
        );
    }
}
