//! `--network`, and what belongs to a container's place on it.

use serde_json::{Map, Value, json};

use super::environment::pairs;
use crate::error::{Error, Result};

/// What applies to the first network.
#[derive(Debug, Default)]
pub struct First<'a> {
    pub aliases: &'a [String],
    pub ip: Option<&'a str>,
    pub ip6: Option<&'a str>,
    pub mac: Option<&'a str>,
}

/// `NetworkMode` and `EndpointsConfig`.
pub fn endpoints(networks: &[String], first: &First<'_>) -> Result<(String, Map<String, Value>)> {
    let mut all = Map::new();
    let mut mode = String::new();
    for (at, text) in networks.iter().enumerate() {
        let (name, mut endpoint) = endpoint(text)?;
        if at == 0 {
            mode.clone_from(&name);
            add_first(&mut endpoint, first);
        }
        all.insert(name, Value::Object(endpoint));
    }
    if networks.is_empty() {
        let mut endpoint = Map::new();
        add_first(&mut endpoint, first);
        if !endpoint.is_empty() {
            mode = "default".to_owned();
            all.insert(mode.clone(), Value::Object(endpoint));
        }
    }
    // The mode says everything where nothing more is asked.
    all.retain(|name, endpoint| {
        networks.len() > 1 || endpoint.as_object().is_some_and(|e| !e.is_empty()) || *name != mode
    });
    Ok((mode, all))
}

fn add_first(endpoint: &mut Map<String, Value>, first: &First<'_>) {
    if !first.aliases.is_empty() {
        let aliases = endpoint.entry("Aliases").or_insert_with(|| json!([]));
        if let Some(aliases) = aliases.as_array_mut() {
            aliases.extend(first.aliases.iter().cloned().map(Value::from));
        }
    }
    let mut address = Map::new();
    if let Some(ip) = first.ip {
        address.insert("IPv4Address".into(), ip.into());
    }
    if let Some(ip) = first.ip6 {
        address.insert("IPv6Address".into(), ip.into());
    }
    if !address.is_empty() {
        endpoint.insert("IPAMConfig".into(), Value::Object(address));
    }
    if let Some(mac) = first.mac {
        endpoint.insert("MacAddress".into(), mac.into());
    }
}

/// A name, or `name=n,alias=a,ip=…`.
fn endpoint(text: &str) -> Result<(String, Map<String, Value>)> {
    if !text.contains('=') {
        return Ok((text.to_owned(), Map::new()));
    }
    let (mut name, mut aliases, mut options) = (String::new(), Vec::new(), Vec::new());
    let (mut endpoint, mut address) = (Map::new(), Map::new());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match key {
            "name" => value.clone_into(&mut name),
            "alias" => aliases.push(value.to_owned()),
            "ip" => drop(address.insert("IPv4Address".into(), value.into())),
            "ip6" => drop(address.insert("IPv6Address".into(), value.into())),
            "mac-address" => drop(endpoint.insert("MacAddress".into(), value.into())),
            "driver-opt" => options.push(value.to_owned()),
            "gw-priority" => {
                drop(endpoint.insert("GwPriority".into(), value.parse::<i64>().ok().into()))
            }
            other => {
                return Err(Error::usage(format!(
                    "{text:?} is no network: {other:?} is not known; write a name, or \
                     name=net,alias=db,ip=10.0.0.5"
                )));
            }
        }
    }
    if name.is_empty() {
        return Err(Error::usage(format!(
            "{text:?} is no network: it has no name"
        )));
    }
    if !aliases.is_empty() {
        endpoint.insert("Aliases".into(), aliases.into());
    }
    if !address.is_empty() {
        endpoint.insert("IPAMConfig".into(), Value::Object(address));
    }
    if !options.is_empty() {
        endpoint.insert("DriverOpts".into(), Value::Object(pairs(&options)));
    }
    Ok((name, endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(networks: &[&str], first: &First<'_>) -> (String, Value) {
        let networks: Vec<String> = networks.iter().map(|&text| text.to_owned()).collect();
        let (mode, endpoints) = endpoints(&networks, first).unwrap();
        (mode, Value::Object(endpoints))
    }

    #[test]
    fn the_first_network_is_the_mode_and_has_what_is_asked_of_it() {
        let none = First::default();
        assert_eq!(of(&[], &none), (String::new(), json!({})));
        assert_eq!(of(&["host"], &none), ("host".into(), json!({})));
        let aliases = ["db".to_owned()];
        let first = First {
            aliases: &aliases,
            ip: Some("10.0.0.5"),
            ..First::default()
        };
        let expected = json!({"Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.0.0.5"}});
        assert_eq!(
            of(&["net"], &first),
            ("net".into(), json!({"net": expected}))
        );
        assert_eq!(
            of(&["name=net,alias=db,ip=10.0.0.5"], &none),
            ("net".into(), json!({"net": expected}))
        );
        assert_eq!(
            of(&["a", "b"], &none),
            ("a".into(), json!({"a": {}, "b": {}}))
        );
        assert!(endpoints(&["alias=x".to_owned()], &none).is_err());
    }
}
