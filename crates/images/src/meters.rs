//! What pulls and collections count about themselves.

use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::collect::Collected;
use crate::{Error, ErrorKind};

type Labelled = Family<[(&'static str, &'static str); 1], Counter>;

/// Clones share their counts.
#[derive(Debug, Clone)]
pub struct Meters {
    pulling: Gauge,
    pulls: Counter,
    pull_failures: Labelled,
    pull_seconds: Histogram,
    pulled: Counter,
    collections: Counter,
    collection_failures: Counter,
    collected: Labelled,
    collection_seconds: Histogram,
    scrubs: Counter,
    scrubbed: Labelled,
    bad: Labelled,
    healed: Counter,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            pulling: Gauge::default(),
            pulls: Counter::default(),
            pull_failures: Family::default(),
            // From 10 ms to half an hour.
            pull_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 18)),
            pulled: Counter::default(),
            collections: Counter::default(),
            collection_failures: Counter::default(),
            collected: Family::default(),
            collection_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            scrubs: Counter::default(),
            scrubbed: Family::default(),
            bad: Family::default(),
            healed: Counter::default(),
        }
    }
}

/// A pull under way; however it ends, it is no longer one afterwards.
pub(crate) struct Pulling {
    meters: Meters,
    begin: Instant,
}

impl Drop for Pulling {
    fn drop(&mut self) {
        self.meters.pulling.dec();
    }
}

impl Pulling {
    pub(crate) fn end<T>(self, outcome: &Result<T, Error>) {
        let meters = &self.meters;
        match outcome {
            Ok(_) => {
                meters.pulls.inc();
                let seconds = self.begin.elapsed().as_secs_f64();
                meters.pull_seconds.observe(seconds);
            }
            Err(error) => {
                let labels = [("reason", reason(error.kind()))];
                meters.pull_failures.get_or_create(&labels).inc();
            }
        }
    }
}

impl Meters {
    pub(crate) fn pull(&self) -> Pulling {
        self.pulling.inc();
        Pulling {
            meters: self.clone(),
            begin: Instant::now(),
        }
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.pulled.inc_by(bytes as u64);
    }

    pub(crate) fn collected(&self, begin: Instant, outcome: &Result<Collected, Error>) {
        self.collection_seconds
            .observe(begin.elapsed().as_secs_f64());
        self.collections.inc();
        let Ok(collected) = outcome else {
            self.collection_failures.inc();
            return;
        };
        self.collection_failures.inc_by(collected.failures);
        for (kind, count) in [
            ("blob", collected.blobs),
            ("layer", collected.layers),
            ("partial", collected.partials),
        ] {
            self.collected
                .get_or_create(&[("kind", kind)])
                .inc_by(count);
        }
    }

    /// A round of reading everything again has ended.
    pub(crate) fn scrubbed(&self) {
        self.scrubs.inc();
    }

    pub(crate) fn read(&self, kind: &'static str, bytes: u64) {
        self.scrubbed.get_or_create(&[("kind", kind)]).inc_by(bytes);
    }

    pub(crate) fn bad(&self, kind: &'static str) {
        self.bad.get_or_create(&[("kind", kind)]).inc();
    }

    pub(crate) fn healed(&self) {
        self.healed.inc();
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "pulls_in_progress",
            "Pulls that are under way",
            self.pulling.clone(),
        );
        registry.register("pulls", "Pulls that succeeded", self.pulls.clone());
        registry.register(
            "pull_failures",
            "Pulls that failed, by reason",
            self.pull_failures.clone(),
        );
        registry.register_with_unit(
            "pull_duration",
            "Time of the pulls that succeeded",
            Unit::Seconds,
            self.pull_seconds.clone(),
        );
        registry.register_with_unit(
            "pull_received",
            "Layers as they came from registries, compressed",
            Unit::Bytes,
            self.pulled.clone(),
        );
        registry.register(
            "image_collections",
            "Runs of the collector of image content",
            self.collections.clone(),
        );
        registry.register(
            "image_collection_failures",
            "Runs that failed, and items that could not be removed",
            self.collection_failures.clone(),
        );
        registry.register(
            "image_collected",
            "Blobs, layers and partial blobs that the collector removed",
            self.collected.clone(),
        );
        registry.register_with_unit(
            "image_collection_duration",
            "Time of the collector's runs",
            Unit::Seconds,
            self.collection_seconds.clone(),
        );
        registry.register(
            "image_scrubs",
            "Rounds in which all images were read again",
            self.scrubs.clone(),
        );
        registry.register_with_unit(
            "image_scrubbed",
            "Blobs and files of layers that were read again",
            Unit::Bytes,
            self.scrubbed.clone(),
        );
        registry.register(
            "image_content_bad",
            "Blobs and layers that were found damaged or missing",
            self.bad.clone(),
        );
        registry.register(
            "image_content_healed",
            "Damaged layers that were made anew from their blob",
            self.healed.clone(),
        );
    }
}

fn reason(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Unauthorized => "unauthorized",
        ErrorKind::RegistryUnavailable => "registry_unavailable",
        ErrorKind::DigestMismatch => "digest_mismatch",
        ErrorKind::NoSpace => "no_space",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Internal => "internal",
    }
}
