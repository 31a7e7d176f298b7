//! The file format (CDI specification, "CDI JSON Specification"), from untrusted text to edits
//! that can be applied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::edits::{self, Edits};
use crate::name;

/// Released versions of the specification, oldest first.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// One file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Document {
    cdi_version: String,
    /// `vendor/class`.
    pub kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    /// Made once for whoever gets any of the devices.
    #[serde(default)]
    pub container_edits: Edits,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Device {
    pub name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    pub container_edits: Edits,
}

impl Document {
    /// Reads a file's text; its name tells the format. The error is for people.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let is_json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let document: Self = if is_json {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            serde_saphyr::from_str(text).map_err(|error| error.to_string())?
        };
        document.check()?;
        Ok(document)
    }

    fn check(&self) -> Result<(), String> {
        let shown = |text: &str| text.chars().take(100).collect::<String>();
        let version = VERSIONS
            .iter()
            .position(|known| *known == self.cdi_version)
            .ok_or_else(|| {
                let newest = VERSIONS.last().unwrap_or(&"");
                let version = shown(&self.cdi_version);
                format!("cdiVersion {version:?} is not known; up to {newest} are")
            })?;
        name::check_kind(&self.kind)
            .map_err(|problem| format!("kind {:?}: {problem}", shown(&self.kind)))?;
        if self.devices.is_empty() {
            return Err("it describes no devices".to_owned());
        }
        let mut names = BTreeSet::new();
        for device in &self.devices {
            let told = |problem: String| format!("device {:?}: {problem}", shown(&device.name));
            name::check_device(&device.name).map_err(|problem| told(problem.to_owned()))?;
            if !names.insert(&device.name) {
                return Err(told("it is described twice".to_owned()));
            }
            if device.container_edits == Edits::default() {
                return Err(told("it has no containerEdits".to_owned()));
            }
            device.container_edits.check().map_err(told)?;
        }
        self.container_edits.check()?;
        let needed = self.needed_version();
        match VERSIONS.get(needed) {
            Some(needed_name) if needed > version => Err(format!(
                "cdiVersion {} has not all that the file uses: it takes {needed_name}",
                self.cdi_version
            )),
            _ => Ok(()),
        }
    }

    /// Index of the oldest version that has every field that is used.
    fn needed_version(&self) -> usize {
        let at = |version| VERSIONS.iter().position(|known| *known == version);
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        let annotated = !self.annotations.is_empty()
            || self
                .devices
                .iter()
                .any(|device| !device.annotations.is_empty());
        let digits = |name: &str| name.starts_with(|first: char| first.is_ascii_digit());
        let own = [
            (annotated || class.contains('.'), "0.6.0"),
            (
                self.devices.iter().any(|device| digits(&device.name)),
                "0.5.0",
            ),
        ];
        let own = own
            .into_iter()
            .filter_map(|(used, version)| used.then_some(version));
        let edits = self.devices.iter().map(|device| &device.container_edits);
        edits
            .chain([&self.container_edits])
            .map(edits::needed_version)
            .chain(own)
            .filter_map(at)
            .max()
            .unwrap_or(0)
    }
}

/// A file and what it holds.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub path: PathBuf,
    pub document: Document,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sample() -> Value {
        json!({
            "cdiVersion": "0.7.0",
            "kind": "vendor.example/card",
            "devices": [{
                "name": "zero",
                "containerEdits": { "deviceNodes": [{ "path": "/dev/card0", "hostPath": "/dev/zero" }] },
            }],
            "containerEdits": { "env": ["CARD=yes"], "additionalGids": [44] },
        })
    }

    fn read(value: &Value) -> Result<Document, String> {
        Document::parse(Path::new("x.json"), &value.to_string())
    }

    #[test]
    fn both_formats_mean_the_same() {
        let yaml = "\
---
cdiVersion: \"0.7.0\"
kind: vendor.example/card
devices:
- name: zero
  containerEdits:
    deviceNodes:
    - {path: /dev/card0, hostPath: /dev/zero}
containerEdits:
  env: [CARD=yes]
  additionalGids: [44]
";
        let yaml = Document::parse(Path::new("x.yaml"), yaml).unwrap();
        assert_eq!(yaml, read(&sample()).unwrap());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let edits = "/devices/0/containerEdits";
        let cases: [(&str, Value, &str); 14] = [
            ("/cdiVersion", json!("2.0.0"), "2.0.0"),
            ("/cdiVersion", json!("0.6.0"), "0.7.0"),
            ("/kind", json!("card"), "kind"),
            ("/kind", json!("vendor/card!"), "kind"),
            ("/devices", json!([]), "no devices"),
            ("/devices/0/name", json!("-"), "name"),
            (edits, json!({}), "no containerEdits"),
            (edits, json!({ "unheardOf": 1 }), "unheardOf"),
            (edits, json!({ "env": ["=x"] }), "env"),
            (edits, json!({ "deviceNodes": [{ "path": "" }] }), "path"),
            (
                edits,
                json!({ "deviceNodes": [{ "path": "/dev/x", "type": "z" }] }),
                "type",
            ),
            (
                edits,
                json!({ "deviceNodes": [{ "path": "/dev/x", "permissions": "rx" }] }),
                "permissions",
            ),
            (
                edits,
                json!({ "mounts": [{ "hostPath": "", "containerPath": "/x" }] }),
                "hostPath",
            ),
            (
                edits,
                json!({ "hooks": [{ "hookName": "never", "path": "/bin/true" }] }),
                "never",
            ),
        ];
        for (place, value, expected) in cases {
            let mut document = sample();
            *document.pointer_mut(place).unwrap() = value;
            let problem = read(&document).unwrap_err();
            assert!(problem.contains(expected), "{place}: {problem}");
        }
        let mut twice = sample();
        let device = twice["devices"][0].clone();
        twice["devices"].as_array_mut().unwrap().push(device);
        assert!(read(&twice).unwrap_err().contains("twice"));
        assert!(Document::parse(Path::new("x.yaml"), "a: [").is_err());
    }

    #[test]
    fn a_version_has_only_the_fields_of_its_time() {
        let cases = [
            (
                json!({ "mounts": [{ "hostPath": "/a", "containerPath": "/b", "type": "bind" }] }),
                "0.4.0",
            ),
            (
                json!({ "deviceNodes": [{ "path": "/dev/a", "hostPath": "/dev/b" }] }),
                "0.5.0",
            ),
            (json!({ "intelRdt": { "closID": "a" } }), "0.7.0"),
            (
                json!({ "netDevices": [{ "hostInterfaceName": "a", "name": "b" }] }),
                "1.1.0",
            ),
        ];
        for (edits, needed) in cases {
            let mut document = sample();
            document["containerEdits"] = json!({});
            document["devices"][0]["containerEdits"] = edits;
            document["cdiVersion"] = json!(needed);
            read(&document).unwrap();
            document["cdiVersion"] = json!("0.3.0");
            assert!(read(&document).unwrap_err().contains(needed));
        }
    }
}
