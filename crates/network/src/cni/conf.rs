//! CNI network configurations: what a file says, and whether it can be used. Pure.
//!
//! Read are conflists (a list of plugins) and plain configurations (one plugin), of the
//! specification's versions 0.1.0 to 1.1.0. https://www.cni.dev/docs/spec/

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Versions that are spoken, oldest first.
const SPOKEN: [Version; 7] = [
    Version(0, 1, 0),
    Version(0, 2, 0),
    Version(0, 3, 0),
    Version(0, 3, 1),
    Version(0, 4, 0),
    Version(1, 0, 0),
    Version(1, 1, 0),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Version(u16, u16, u16);

impl Version {
    pub(crate) const CHAINED: Self = Self(0, 3, 0);
    /// From here on DEL is told the result of ADD.
    pub(crate) const REMEMBERED: Self = Self(0, 4, 0);
    /// From here on there are STATUS and GC.
    pub(crate) const STATUS: Self = Self(1, 1, 0);

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse::<u16>().ok());
        let version = Self(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        format!("{}.{}.{}", version.0, version.1, version.2)
    }
}

impl TryFrom<String> for Version {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or(text)
    }
}

/// A network: plugins that run one after another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkList {
    pub name: String,
    pub version: Version,
    pub plugins: Vec<Plugin>,
    /// The network's owner does not want GC.
    #[serde(default)]
    pub disable_gc: bool,
}

/// One plugin's configuration, as its file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Plugin(pub Map<String, Value>);

impl Plugin {
    fn parse(value: &Value) -> Result<Self, String> {
        let Value::Object(map) = value else {
            return Err("a plugin is no JSON object".into());
        };
        let plugin = Self(map.clone());
        match plugin.kind() {
            "" => Err("a plugin has no type".into()),
            // It becomes a file's name.
            kind if kind.contains(['/', '\0']) || kind == "." || kind == ".." => {
                Err(format!("{kind:?} is not a plugin's name"))
            }
            _ => Ok(plugin),
        }
    }

    pub(crate) fn kind(&self) -> &str {
        self.0
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Whether the plugin declares that it understands the runtime's `capability`.
    pub(crate) fn has(&self, capability: &str) -> bool {
        self.0
            .get("capabilities")
            .and_then(|capabilities| capabilities.get(capability))
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }
}

impl NetworkList {
    /// Reads a file's text; the error says in words what is wrong with it.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let value: Value =
            serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
        let Value::Object(map) = &value else {
            return Err("no JSON object".into());
        };
        let name = map.get("name").and_then(Value::as_str).unwrap_or_default();
        if !good_name(name) {
            return Err(format!("{name:?} is not a network's name"));
        }
        let plugins = match map.get("plugins") {
            Some(Value::Array(plugins)) => plugins
                .iter()
                .map(Plugin::parse)
                .collect::<Result<Vec<_>, _>>()?,
            Some(_) => return Err("plugins is no list".into()),
            None => vec![Plugin::parse(&value)?],
        };
        let list = Self {
            name: name.to_owned(),
            version: version(map)?,
            plugins,
            disable_gc: map.get("disableGC").is_some_and(truth),
        };
        if list.plugins.len() > 1 && list.version < Version::CHAINED {
            return Err("plugins can be chained from version 0.3.0 on".into());
        }
        Ok(list)
    }

    /// Whether the file's author also wants the plugins of the directory named like the network.
    pub(crate) fn wants_directory(text: &[u8]) -> bool {
        serde_json::from_slice::<Value>(text).is_ok_and(|value| {
            value.get("plugins").is_some()
                && !value.get("loadOnlyInlinedPlugins").is_some_and(truth)
        })
    }

    /// Appends a plugin that was found beside the list.
    pub(crate) fn append(&mut self, text: &[u8]) -> Result<(), String> {
        let value: Value =
            serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
        self.plugins.push(Plugin::parse(&value)?);
        Ok(())
    }
}

/// The newest spoken version that the file offers; a file that names none means the first.
fn version(map: &Map<String, Value>) -> Result<Version, String> {
    let single = match map.get("cniVersion") {
        None => "0.1.0",
        Some(Value::String(text)) if text.is_empty() => "0.1.0",
        Some(Value::String(text)) => text,
        Some(_) => return Err("cniVersion is no string".into()),
    };
    let offered = map
        .get("cniVersions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    offered
        .filter_map(Value::as_str)
        .chain([single])
        .filter_map(Version::parse)
        .filter(|version| SPOKEN.contains(version))
        .max()
        .ok_or_else(|| format!("version {single:?} is not spoken here"))
}

/// Booleans were once written as strings, too.
fn truth(value: &Value) -> bool {
    value
        .as_bool()
        .unwrap_or_else(|| value.as_str() == Some("true"))
}

fn good_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_files_are_read() {
        for (text, name, version, kinds) in [
            (
                r#"{"cniVersion":"0.4.0","name":"a","type":"bridge"}"#,
                "a",
                "0.4.0",
                &["bridge"][..],
            ),
            (
                r#"{"name":"a-b.c_1","type":"x"}"#,
                "a-b.c_1",
                "0.1.0",
                &["x"],
            ),
            (
                r#"{"cniVersion":"0.3.1","name":"a","plugins":[{"type":"x"},{"type":"y"}]}"#,
                "a",
                "0.3.1",
                &["x", "y"],
            ),
            (
                r#"{"cniVersion":"1.0.0","cniVersions":["1.0.0","1.1.0","9.0.0"],"name":"a",
                    "disableGC":true,"plugins":[{"type":"x"}]}"#,
                "a",
                "1.1.0",
                &["x"],
            ),
            (
                r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#,
                "a",
                "1.0.0",
                &[],
            ),
        ] {
            let list = NetworkList::parse(text.as_bytes()).unwrap();
            assert_eq!(
                (list.name.as_str(), String::from(list.version)),
                (name, version.into())
            );
            assert_eq!(
                list.plugins.iter().map(Plugin::kind).collect::<Vec<_>>(),
                kinds
            );
            assert_eq!(list.disable_gc, text.contains("disableGC"));
        }
    }

    #[test]
    fn unusable_files_say_why() {
        for (text, why) in [
            ("", "not JSON"),
            ("[]", "no JSON object"),
            ("{}", "network's name"),
            (r#"{"name":"../x","type":"y"}"#, "network's name"),
            (r#"{"name":"-x","type":"y"}"#, "network's name"),
            (r#"{"name":"a b","type":"y"}"#, "network's name"),
            (r#"{"name":"a"}"#, "no type"),
            (r#"{"name":"a","type":""}"#, "no type"),
            (r#"{"name":"a","type":"../../bin/sh"}"#, "plugin's name"),
            (r#"{"name":"a","type":".."}"#, "plugin's name"),
            (
                r#"{"name":"a","cniVersion":"7.0.0","type":"y"}"#,
                "not spoken",
            ),
            (
                r#"{"name":"a","cniVersion":"one","type":"y"}"#,
                "not spoken",
            ),
            (r#"{"name":"a","cniVersion":1,"type":"y"}"#, "no string"),
            (r#"{"name":"a","plugins":{}}"#, "no list"),
            (
                r#"{"name":"a","cniVersion":"1.0.0","plugins":[1]}"#,
                "no JSON object",
            ),
            (
                r#"{"name":"a","cniVersion":"1.0.0","plugins":[{"name":"x"}]}"#,
                "no type",
            ),
            (
                r#"{"name":"a","cniVersion":"0.2.0","plugins":[{"type":"x"},{"type":"y"}]}"#,
                "chain",
            ),
        ] {
            let error = NetworkList::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn only_declared_capabilities_count() {
        let text = r#"{"name":"a","type":"x","capabilities":{"dns":true,"bandwidth":false,"x":1}}"#;
        let list = NetworkList::parse(text.as_bytes()).unwrap();
        let declared: Vec<_> = ["dns", "bandwidth", "x", "portMappings"]
            .into_iter()
            .filter(|name| list.plugins[0].has(name))
            .collect();
        assert_eq!(declared, ["dns"]);
    }
}
