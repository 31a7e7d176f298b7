//! What plugins answer: results and errors. Pure.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

/// The specification's error object.
#[derive(Debug, Deserialize)]
pub(super) struct Complaint {
    pub code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Complaint {
    pub(super) fn parse(answer: &[u8]) -> Option<Self> {
        serde_json::from_slice(answer).ok()
    }

    pub(super) fn words(&self) -> String {
        let mut words = match (self.meaning(), self.msg.is_empty()) {
            (Some(meaning), true) => meaning.to_owned(),
            (Some(meaning), false) => format!("{meaning}: {}", self.msg),
            (None, true) => format!("error {}", self.code),
            (None, false) => self.msg.clone(),
        };
        if !self.details.is_empty() {
            words = format!("{words} ({})", self.details);
        }
        words
    }

    /// The container is unknown to the plugin: nothing is left to delete.
    pub(super) fn nothing_there(&self) -> bool {
        self.code == 3
    }

    fn meaning(&self) -> Option<&'static str> {
        Some(match self.code {
            1 => "the version is not supported",
            2 => "a field of the configuration is not supported",
            3 => "the container is unknown or does not exist",
            4 => "an environment variable is missing or wrong",
            5 => "input or output failed",
            6 => "the configuration could not be decoded",
            7 => "the configuration is invalid",
            11 => "the plugin asks to try again later",
            50 => "the plugin is not available",
            51 => "the plugin is not available, and existing pods may lose connectivity",
            _ => return None,
        })
    }
}

/// The pod's addresses in the order of the result; `interface` is the one asked for.
pub(super) fn addresses(result: &Value, interface: &str) -> Vec<IpAddr> {
    let listed = result.get("ips").and_then(Value::as_array);
    let Some(listed) = listed else {
        // Versions before 0.3.0 had room for one of each family.
        return ["ip4", "ip6"]
            .iter()
            .filter_map(|family| result.get(family)?.get("ip").and_then(address))
            .collect();
    };
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    let place = |ip: &Value| {
        let index = ip.get("interface").and_then(Value::as_u64)?;
        interfaces?.get(usize::try_from(index).ok()?)
    };
    let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
    let belongs = |ip: &Value| {
        place(ip).is_none_or(|place| {
            text(place, "name").as_deref() == Some(interface)
                && text(place, "sandbox").is_some_and(|sandbox| !sandbox.is_empty())
        })
    };
    listed
        .iter()
        .filter(|ip| belongs(ip))
        .filter_map(|ip| address(ip.get("address")?))
        .collect()
}

fn address(value: &Value) -> Option<IpAddr> {
    let text = value.as_str()?;
    text.split_once('/')
        .map_or(text, |(address, _)| address)
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_version_are_found() {
        for (text, wanted) in [
            (
                r#"{"ip4":{"ip":"10.0.0.2/24"},"ip6":{"ip":"fd00::2/64"}}"#,
                &["10.0.0.2", "fd00::2"][..],
            ),
            (
                r#"{"ips":[{"version":"4","address":"10.0.0.2/24"}]}"#,
                &["10.0.0.2"],
            ),
            (
                r#"{"interfaces":[{"name":"br"},{"name":"eth0","sandbox":"/x"},{"name":"net1","sandbox":"/x"}],
                    "ips":[{"address":"fd00::2/64","interface":1},{"address":"10.0.0.2/24","interface":1},
                           {"address":"10.9.0.2/24","interface":2},{"address":"10.8.0.1/24","interface":0}]}"#,
                &["fd00::2", "10.0.0.2"],
            ),
            (
                r#"{"ips":[{"address":"10.0.0.2","interface":7}]}"#,
                &["10.0.0.2"],
            ),
            (r#"{"ips":[{"address":"nonsense"},{},7]}"#, &[]),
            (r#"{"ips":{}}"#, &[]),
            ("[]", &[]),
            ("null", &[]),
        ] {
            let found = addresses(&serde_json::from_str(text).unwrap(), "eth0");
            let wanted: Vec<IpAddr> = wanted.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }

    #[test]
    fn complaints_become_words() {
        for (text, words) in [
            (
                r#"{"code":11,"msg":"busy"}"#,
                "the plugin asks to try again later: busy",
            ),
            (
                r#"{"code":7,"details":"no bridge"}"#,
                "the configuration is invalid (no bridge)",
            ),
            (r#"{"code":999,"msg":"boom","details":"x"}"#, "boom (x)"),
            (r#"{"code":100}"#, "error 100"),
        ] {
            assert_eq!(Complaint::parse(text.as_bytes()).unwrap().words(), words);
        }
        for text in ["", "{}", "boom", r#"{"code":"x"}"#] {
            assert!(Complaint::parse(text.as_bytes()).is_none());
        }
    }
}
