//! What people write after a flag, in the words of the API.

mod build;
mod create;
mod endpoints;
mod environment;
mod limits;
mod moment;
mod mounts;
mod ports;
mod values;

pub use build::BuildLimits;
pub use create::{Attached, CreateOptions};
pub use environment::{environment, labels, pairs};
pub use limits::LimitOptions;
pub use moment::{Window, moment};
pub use values::restart_policy;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// `name=value` filters as the API takes them, or nothing where there are none.
pub fn filters(given: &[String]) -> Result<String> {
    let mut all: Map<String, Value> = Map::new();
    for filter in given {
        let (name, value) = filter.split_once('=').ok_or_else(|| {
            Error::usage(format!(
                "{filter:?} is no filter: write name=value, as in status=running"
            ))
        })?;
        let values = all
            .entry(name.trim().to_lowercase())
            .or_insert_with(|| json!([]));
        if let Value::Array(values) = values {
            values.push(value.trim().into());
        }
    }
    Ok(match all.is_empty() {
        true => String::new(),
        false => Value::Object(all).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_a_map_of_lists() {
        let given = ["status=running", "label=a=b", "status=paused"].map(String::from);
        assert_eq!(
            filters(&given).unwrap(),
            r#"{"label":["a=b"],"status":["running","paused"]}"#
        );
        assert_eq!(filters(&[]).unwrap(), "");
        assert!(filters(&["running".to_owned()]).is_err());
    }
}
