//! Fault points are in a program only where a test builds it with them.

use anyhow::{Context, Result};
use serde_json::Value;

use super::direction::manifests;

const ROOM: &str = "berth-faults";
const SWITCH: &str = "berth-faults/points";
/// The only feature that may throw the switch.
const ALLOWED: (&str, &str) = ("berthd", "fault-points");

/// One line for every way in which an ordinary build would get them.
pub fn check() -> Result<Vec<String>> {
    broken(&manifests()?)
}

fn broken(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata without packages")?;
    let mut broken = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let asks = dependency["features"]
                .as_array()
                .is_some_and(|asked| !asked.is_empty());
            if dependency["name"] == ROOM && asks {
                broken.push(format!("{name} asks {ROOM} for features for good"));
            }
        }
        for (feature, implied) in package["features"].as_object().into_iter().flatten() {
            let implied: Vec<&str> = implied
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let throws = implied.contains(&SWITCH) && (name, feature.as_str()) != ALLOWED;
            let by_default = feature == "default"
                && ((name == ROOM && !implied.is_empty()) || implied.contains(&ALLOWED.1));
            if throws || by_default {
                broken.push(format!(
                    "feature {feature} of {name} switches fault points on"
                ));
            }
        }
    }
    Ok(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_way_around_the_switch_is_found() {
        let package = |name: &str, asked: Value, features: Value| {
            json!({ "packages": [{
                "name": name,
                "dependencies": [{ "name": ROOM, "features": asked }],
                "features": features,
            }]})
        };
        let switch = json!({ "fault-points": ["dep:berth-faults", SWITCH] });
        for (metadata, expected) in [
            (package("berthd", json!([]), switch.clone()), 0),
            (package("berth-images", json!([]), switch), 1),
            (package("berth-images", json!(["points"]), json!({})), 1),
            (
                package("berthd", json!([]), json!({ "default": ["fault-points"] })),
                1,
            ),
            (
                package(ROOM, json!([]), json!({ "default": ["points"] })),
                1,
            ),
        ] {
            let found = broken(&metadata).unwrap();
            assert_eq!(found.len(), expected, "{metadata}: {found:?}");
        }
    }
}
