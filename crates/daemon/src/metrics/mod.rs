//! The daemon's own metrics, in the OpenMetrics text format.
//!
//! Rooms count for themselves and register what they count; calls are counted around the doors
//! (`calls`); what is there now is looked up when somebody asks (`present`); `endpoint` serves it.

pub mod calls;
pub mod endpoint;
mod present;

use berth_images::Meters as ImageMeters;
use berth_lifecycle::Runtime;
use berth_metadata::Meters as StoreMeters;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use calls::Calls;

/// Everything that is counted, under names that start with `berth_`.
pub fn registry(
    calls: &Calls,
    images: &ImageMeters,
    store: &StoreMeters,
    runtime: Runtime,
) -> Registry {
    let mut registry = Registry::with_prefix("berth");
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The daemon's version", version);
    calls.register(&mut registry);
    images.register(&mut registry);
    store.register(&mut registry);
    registry.register_collector(Box::new(present::Present::new(runtime)));
    registry
}
