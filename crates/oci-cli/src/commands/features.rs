//! What this runtime does, in the form of the runtime-spec's `features.md`.

use super::state::print_pretty;
use crate::arguments::Arguments;
use crate::error::Result;
use crate::global::Global;
use crate::journal::Journal;
use serde_json::json;

pub fn run(_: &Global, _: &Journal, _: &Arguments) -> Result<u8> {
    let mut features = berth_executor::features();
    features["annotations"] = json!({
        "run.berth.version": env!("CARGO_PKG_VERSION"),
        // By runc's name, which is what callers look for.
        "org.opencontainers.runc.checkpoint.enabled": "true",
    });
    print_pretty(&features)?;
    Ok(0)
}
