//! What the commit thread counts about itself.

use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Clones share their counts.
#[derive(Debug, Clone)]
pub struct Meters {
    groups: Counter,
    batches: Counter,
    failures: Counter,
    seconds: Histogram,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            groups: Counter::default(),
            batches: Counter::default(),
            failures: Counter::default(),
            // From 0.1 ms to 6.5 s: one sync of a fast disk to many of a slow one.
            seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 17)),
        }
    }
}

impl Meters {
    pub(crate) fn committed(&self, batches: u64, begin: Instant, done: bool) {
        if !done {
            self.failures.inc();
            return;
        }
        self.groups.inc();
        self.batches.inc_by(batches);
        self.seconds.observe(begin.elapsed().as_secs_f64());
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "store_commits",
            "Groups of batches committed to the metadata store",
            self.groups.clone(),
        );
        registry.register(
            "store_batches",
            "Batches in committed groups",
            self.batches.clone(),
        );
        registry.register(
            "store_commit_failures",
            "Groups that could not be committed",
            self.failures.clone(),
        );
        registry.register_with_unit(
            "store_commit_duration",
            "Time to write a group, and to sync it where somebody waits for that",
            Unit::Seconds,
            self.seconds.clone(),
        );
    }
}
