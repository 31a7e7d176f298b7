//! How an image was made: a predicate of SLSA's provenance, version 1. Pure.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Checksum, Provenance};
use crate::plan::PROXIES;

pub const PROVENANCE_TYPE: &str = "https://slsa.dev/provenance/v1";
const DOCUMENTATION: &str = "https://github.com/berth-runtime/berth/blob/main/docs/build.md";

/// What is known of a build.
#[derive(Debug, Default)]
pub(crate) struct Facts<'a> {
    pub wanted: Provenance,
    /// Where the context came from, if not from the client; without secrets.
    pub source: Option<String>,
    /// The Dockerfile's name and text.
    pub file: (&'a str, &'a str),
    pub target: &'a str,
    pub arguments: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Ids.
    pub secrets: Vec<&'a str>,
    pub agents: Vec<&'a str>,
    pub platform: String,
    pub materials: BTreeMap<String, Option<Checksum>>,
    pub invocation: String,
    /// RFC 3339.
    pub started: String,
    pub finished: String,
    /// The same input gives the same output, if its commands do.
    pub is_reproducible: bool,
}

pub(crate) fn predicate(facts: &Facts<'_>) -> Value {
    let builder = match facts.wanted.builder.as_str() {
        "" => format!("{DOCUMENTATION}#builder"),
        own => own.to_owned(),
    };
    let materials = facts.materials.iter().map(|(address, checksum)| {
        let mut material = json!({ "uri": address });
        if let Some((algorithm, sum)) = checksum {
            material["digest"] = json!({ *algorithm: sum });
        }
        material
    });
    json!({
        "buildDefinition": {
            "buildType": format!("{DOCUMENTATION}#provenance"),
            "externalParameters": {
                "configSource": source(facts),
                "request": request(facts),
            },
            "internalParameters": internal(facts),
            "resolvedDependencies": materials.collect::<Vec<_>>(),
        },
        "runDetails": {
            "builder": {
                "id": builder,
                "version": { "berth": env!("CARGO_PKG_VERSION") },
            },
            "metadata": {
                "invocationId": facts.invocation,
                "startedOn": facts.started,
                "finishedOn": facts.finished,
                "completeness": {
                    "request": facts.wanted.is_full,
                    // What commands fetch by themselves is not seen.
                    "resolvedDependencies": false,
                },
                "reproducible": facts.is_reproducible,
            },
        },
    })
}

fn source(facts: &Facts<'_>) -> Value {
    let mut source = json!({ "path": facts.file.0 });
    if let Some(address) = &facts.source {
        source["uri"] = address.as_str().into();
    }
    source
}

fn request(facts: &Facts<'_>) -> Value {
    let mut arguments = Map::new();
    if !facts.target.is_empty() {
        arguments.insert("target".to_owned(), facts.target.into());
    }
    if facts.wanted.is_full {
        let given = facts.arguments.iter();
        // Addresses of proxies have passwords in them.
        let given = given.filter(|(name, _)| !PROXIES.contains(&name.as_str()));
        let given = given.map(|(name, value)| (format!("build-arg:{name}"), value));
        let labels = facts.labels.iter();
        let labels = labels.map(|(name, value)| (format!("label:{name}"), value));
        arguments.extend(
            given
                .chain(labels)
                .map(|(name, value)| (name, value.as_str().into())),
        );
    }
    let mut request = json!({ "frontend": "dockerfile.v0", "args": arguments });
    if facts.source.is_none() {
        request["locals"] = json!([{ "name": "context" }, { "name": "dockerfile" }]);
    }
    for (kind, ids) in [("secrets", &facts.secrets), ("ssh", &facts.agents)] {
        if !ids.is_empty() {
            let ids = ids.iter().map(|id| json!({ "id": id, "optional": true }));
            request[kind] = ids.collect();
        }
    }
    request
}

fn internal(facts: &Facts<'_>) -> Value {
    let mut internal = json!({ "builderPlatform": facts.platform });
    if facts.wanted.is_full {
        internal["source"] = json!({
            "infos": [{
                "filename": facts.file.0,
                "language": "Dockerfile",
                "data": STANDARD.encode(facts.file.1),
            }],
        });
    }
    internal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(is_full: bool) -> Facts<'static> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Facts {
            wanted: Provenance {
                is_full,
                builder: String::new(),
            },
            file: ("Dockerfile", "FROM x\n"),
            target: "last",
            arguments: [
                pair("TOKEN", "hidden"),
                pair("HTTPS_PROXY", "http://me:proxied@p"),
            ]
            .into(),
            labels: [pair("l", "v")].into(),
            secrets: vec!["id"],
            platform: "linux/amd64".to_owned(),
            materials: [
                (
                    "pkg:docker/x@1".to_owned(),
                    Some(("sha256", "ab".to_owned())),
                ),
                ("https://h/f".to_owned(), None),
            ]
            .into(),
            invocation: "i".to_owned(),
            started: "2026-01-01T00:00:00Z".to_owned(),
            ..Facts::default()
        }
    }

    #[test]
    fn little_is_said_unless_all_is_asked_for() {
        let little = predicate(&facts(false));
        let text = little.to_string();
        for hidden in ["hidden", "proxied", "label:l", "Dockerfile\",\"language"] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
        let definition = &little["buildDefinition"];
        let parameters = &definition["externalParameters"];
        assert_eq!(parameters["request"]["args"], json!({ "target": "last" }));
        assert_eq!(parameters["request"]["secrets"][0]["id"], "id");
        let first = &definition["resolvedDependencies"][1];
        assert_eq!(
            *first,
            json!({ "uri": "pkg:docker/x@1", "digest": { "sha256": "ab" } })
        );
        assert_eq!(
            little["runDetails"]["metadata"]["startedOn"],
            "2026-01-01T00:00:00Z"
        );

        let full = predicate(&facts(true));
        let arguments = &full["buildDefinition"]["externalParameters"]["request"]["args"];
        assert_eq!(arguments["build-arg:TOKEN"], "hidden");
        assert_eq!(arguments["label:l"], "v");
        assert!(!full.to_string().contains("proxied"));
        let info = &full["buildDefinition"]["internalParameters"]["source"]["infos"][0];
        assert_eq!(info["data"], STANDARD.encode("FROM x\n"));
        assert_eq!(predicate(&facts(true)), full);
    }
}
