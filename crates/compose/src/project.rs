//! A project: its services, networks and volumes, complete and in agreement with each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use crate::check::check;
use crate::complete::{complete, resolve_files};
use crate::error::{Error, Result};
use crate::files::{Options, Place};
use crate::hash;
use crate::interpolate::Variables;
use crate::load::Loader;
use crate::node::Node;
use crate::order::{Graph, order};
use crate::show::value;

#[derive(Debug, Clone)]
pub struct Project {
    pub name: String,
    pub directory: PathBuf,
    pub files: Vec<PathBuf>,
    /// Those that were named, rather than found.
    pub env_files: Vec<PathBuf>,
    pub variables: Variables,
    pub services: BTreeMap<String, Service>,
    /// Services whose profiles are not in use.
    pub disabled: BTreeMap<String, Service>,
    pub networks: BTreeMap<String, Part>,
    pub volumes: BTreeMap<String, Part>,
    pub secrets: BTreeMap<String, Part>,
    pub configs: BTreeMap<String, Part>,
    /// Variables that nobody has set, and what else a user may want to know.
    pub warnings: Vec<String>,
}

/// A network, a volume, a secret or a config.
#[derive(Debug, Clone)]
pub struct Part {
    pub node: Node,
    pub value: Value,
}

impl Part {
    fn new(node: Node) -> Self {
        let value = value(&node);
        Self { node, value }
    }

    pub fn name(&self) -> &str {
        self.value["name"].as_str().unwrap_or_default()
    }

    pub fn is_external(&self) -> bool {
        self.value["external"] == true
    }

    pub fn network_hash(&self) -> String {
        hash::of_network(&self.node)
    }

    pub fn volume_hash(&self) -> String {
        hash::of_volume(&self.node)
    }
}

#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    pub node: Node,
    /// What the node says, field by field; sizes are bytes, times as Go writes them.
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub service: String,
    pub condition: Condition,
    /// This service is restarted, too, when that one is.
    pub restart: bool,
    pub required: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Started,
    Healthy,
    Completed,
}

impl Condition {
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "service_started",
            Self::Healthy => "service_healthy",
            Self::Completed => "service_completed_successfully",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        [Self::Started, Self::Healthy, Self::Completed]
            .into_iter()
            .find(|condition| condition.word() == word)
    }
}

impl Service {
    pub fn new(name: &str, node: Node) -> Self {
        Self {
            name: name.to_owned(),
            value: value(&node),
            node,
        }
    }

    pub fn text(&self, field: &str) -> &str {
        self.value[field].as_str().unwrap_or_default()
    }

    /// The same service with another word in a field, as where it names another container.
    pub fn with(&self, field: &str, node: Node) -> Self {
        let mut changed = self.node.clone();
        changed.set(field, node);
        Self::new(&self.name, changed)
    }

    pub fn hash(&self) -> String {
        hash::of_service(&self.node)
    }

    pub fn scale(&self) -> usize {
        let scale = self.value["scale"].as_u64();
        let replicas = self.value["deploy"]["replicas"].as_u64();
        scale.or(replicas).map_or(1, |scale| scale as usize)
    }

    /// The image that its containers are made of; a build is tagged so.
    pub fn image(&self, project: &str) -> String {
        match self.text("image") {
            "" => format!("{project}-{}", self.name),
            image => image.to_owned(),
        }
    }

    pub fn has_build(&self) -> bool {
        !self.value["build"].is_null()
    }

    pub fn dependencies(&self) -> Vec<Dependency> {
        let Some(map) = self.value["depends_on"].as_object() else {
            return Vec::new();
        };
        map.iter()
            .map(|(service, how)| Dependency {
                service: service.clone(),
                condition: how["condition"]
                    .as_str()
                    .and_then(Condition::parse)
                    .unwrap_or(Condition::Started),
                restart: how["restart"] == true,
                required: how["required"] != false,
            })
            .collect()
    }

    /// The one with the highest priority first: it has the default route.
    pub fn networks(&self) -> Vec<String> {
        let Some(map) = self.value["networks"].as_object() else {
            return Vec::new();
        };
        let mut names: Vec<(i64, &String)> = map
            .iter()
            .map(|(name, how)| (-how["priority"].as_i64().unwrap_or(0), name))
            .collect();
        names.sort();
        names.into_iter().map(|(_, name)| name.clone()).collect()
    }

    pub fn profiles(&self) -> Vec<&str> {
        let all = self.value["profiles"].as_array();
        all.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }
}

impl Project {
    pub fn load(options: &Options) -> Result<Self> {
        let mut place = options.place()?;
        let name = {
            let mut loader = loader(&place, options);
            let said = loader.name(&place.files)?;
            options.name(&place, said)?
        };
        let variable = "COMPOSE_PROJECT_NAME".to_owned();
        place.variables.insert(variable, name.clone());
        let mut loader = loader(&place, options);
        let mut model = loader.model(&place.files)?;
        let mut warnings = warnings(loader.unset);
        if model.take("version").is_some() {
            warnings.push("version means nothing any more; it may be removed".to_owned());
        }
        if model.get("services").is_none_or(Node::is_null) {
            return Err(Error::place(
                &model.at,
                "there are no services; write them below \"services:\"",
            ));
        }
        complete(&mut model, &name, &place);
        Self::of(model, name, place, warnings)
    }

    fn of(mut model: Node, name: String, place: Place, warnings: Vec<String>) -> Result<Self> {
        let all = |profiles: &[&str]| {
            profiles.is_empty()
                || profiles
                    .iter()
                    .any(|name| place.profiles.iter().any(|on| on == name || on == "*"))
        };
        let enabled = |node: &Node| {
            let profiles = node.get("profiles").map(Node::items).unwrap_or_default();
            all(&profiles
                .iter()
                .filter_map(Node::as_text)
                .collect::<Vec<_>>())
        };
        check(&model, enabled)?;
        let mut services = BTreeMap::new();
        let mut disabled = BTreeMap::new();
        let taken = model.take("services");
        for entry in taken.iter().flat_map(Node::entries) {
            let mut node = entry.value.clone();
            if enabled(&node) {
                resolve_files(&mut node, &place.variables)?;
                services.insert(entry.key.clone(), Service::new(&entry.key, node));
            } else {
                disabled.insert(entry.key.clone(), Service::new(&entry.key, node));
            }
        }
        let mut parts = |kind: &str| -> BTreeMap<String, Part> {
            let taken = model.take(kind);
            let entries = taken.iter().flat_map(Node::entries);
            let part =
                |entry: &crate::node::Entry| (entry.key.clone(), Part::new(entry.value.clone()));
            entries.map(part).collect()
        };
        let project = Self {
            networks: parts("networks"),
            volumes: parts("volumes"),
            secrets: parts("secrets"),
            configs: parts("configs"),
            name,
            directory: place.directory,
            files: place.files,
            env_files: place.env_files,
            variables: place.variables,
            services,
            disabled,
            warnings,
        };
        project.order()?;
        Ok(project)
    }

    pub fn service(&self, name: &str) -> Result<&Service> {
        self.services.get(name).ok_or_else(|| Error::NoService {
            name: name.to_owned(),
            known: self.services.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// Services, each after those that it waits for.
    pub fn order(&self) -> Result<Vec<String>> {
        order(&self.graph())
    }

    /// Each service with those that it waits for.
    pub fn graph(&self) -> Graph {
        let after = |service: &Service| -> BTreeSet<String> {
            let names = service.dependencies().into_iter().map(|on| on.service);
            names
                .filter(|name| self.services.contains_key(name))
                .collect()
        };
        let line = |(name, service): (&String, &Service)| (name.clone(), after(service));
        self.services.iter().map(line).collect()
    }

    /// Only these services, and those that they wait for where `with_dependencies`. One that is
    /// named is taken whatever its profile. No names are all services.
    pub fn select(&self, names: &[String], with_dependencies: bool) -> Result<Self> {
        let mut selected = self.clone();
        if names.is_empty() {
            return Ok(selected.with_parts_in_use());
        }
        for name in names {
            if let Some(service) = selected.disabled.remove(name) {
                let mut node = service.node;
                resolve_files(&mut node, &self.variables)?;
                let service = Service::new(name, node);
                selected.services.insert(name.clone(), service);
            }
            selected.service(name)?;
        }
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        let mut next = names.to_vec();
        while let Some(name) = next.pop() {
            if wanted.insert(name.clone()) && with_dependencies {
                let service = selected.service(&name)?;
                for on in service.dependencies() {
                    if selected.services.contains_key(&on.service) {
                        next.push(on.service);
                    } else if on.required {
                        selected.service(&on.service)?;
                    }
                }
            }
        }
        selected.services.retain(|name, _| wanted.contains(name));
        Ok(selected.with_parts_in_use())
    }

    /// Without networks and volumes that no service has.
    fn with_parts_in_use(mut self) -> Self {
        let mut networks = BTreeSet::new();
        let mut volumes = BTreeSet::new();
        for service in self.services.values() {
            networks.extend(service.networks());
            let mounts = service.value["volumes"].as_array().into_iter().flatten();
            let names = mounts.filter(|mount| mount["type"] == "volume");
            volumes.extend(
                names
                    .filter_map(|mount| mount["source"].as_str())
                    .map(str::to_owned),
            );
        }
        self.networks.retain(|name, _| networks.contains(name));
        self.volumes.retain(|name, _| volumes.contains(name));
        self
    }

    /// The whole, as one file would say it.
    pub fn value(&self) -> Value {
        let mut whole = serde_json::Map::new();
        whole.insert("name".to_owned(), Value::from(self.name.clone()));
        let services = self.services.iter();
        let services = services.map(|(name, service)| (name.clone(), service.value.clone()));
        whole.insert("services".to_owned(), Value::Object(services.collect()));
        for (kind, parts) in [
            ("networks", &self.networks),
            ("volumes", &self.volumes),
            ("secrets", &self.secrets),
            ("configs", &self.configs),
        ] {
            let parts = parts
                .iter()
                .map(|(name, part)| (name.clone(), part.value.clone()));
            let parts: serde_json::Map<String, Value> = parts.collect();
            if !parts.is_empty() {
                whole.insert(kind.to_owned(), Value::Object(parts));
            }
        }
        Value::Object(whole)
    }
}

/// A service with more in one field, in the words of a file; paths begin at the shell's directory.
pub fn with_more(
    mut service: Node,
    field: &str,
    more: &Node,
    path: &crate::error::Path,
) -> Result<Node> {
    let Some(field) = crate::schema::SERVICE_FIELDS
        .iter()
        .find(|known| known.name == field)
    else {
        return Ok(service);
    };
    let base = std::env::current_dir().unwrap_or_default();
    let more = crate::read::Reader { base: &base }.read(more, &field.shape, path)?;
    let merged = match service.take(field.name) {
        Some(old) => crate::merge::merge(old, more, &field.shape),
        None => more,
    };
    service.set(field.name, merged);
    Ok(service)
}

fn loader<'a>(place: &'a Place, options: &Options) -> Loader<'a> {
    Loader {
        directory: &place.directory,
        variables: &place.variables,
        no_interpolation: options.no_interpolation,
        unset: Vec::new(),
        including: Vec::new(),
    }
}

fn warnings(mut unset: Vec<String>) -> Vec<String> {
    unset.sort();
    unset.dedup();
    let warning = |name| format!("the variable {name} is not set; it is taken to be empty");
    unset.into_iter().map(warning).collect()
}
