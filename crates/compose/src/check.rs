//! What no single field can tell: that names refer to something, and that fields do not contradict
//! each other.

use std::collections::BTreeMap;

use crate::develop::Trigger;
use crate::error::{Error, Path, Result};
use crate::node::{Kind, Node};

/// A model, after its defaults are in place. `enabled` services are checked.
pub fn check(model: &Node, enabled: impl Fn(&Node) -> bool) -> Result<()> {
    let services = Path::of("services");
    for entry in model.get("services").map(Node::entries).unwrap_or_default() {
        let path = services.key(&entry.key);
        name(&entry.key, &entry.at, &path)?;
        if enabled(&entry.value) {
            Service {
                node: &entry.value,
                path,
                model,
            }
            .check()?;
        }
    }
    for (kind, ways) in [
        ("secrets", &["file", "environment"][..]),
        ("configs", &["file", "environment", "content"]),
    ] {
        for entry in model.get(kind).map(Node::entries).unwrap_or_default() {
            let path = Path::of(kind).key(&entry.key);
            source(&entry.value, &path, ways)?;
        }
    }
    Ok(())
}

fn name(name: &str, at: &crate::At, path: &Path) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(good) {
        let reason = "a service's name has letters, digits, dots, - and _ alone";
        return Err(Error::field(at, path, reason));
    }
    Ok(())
}

/// Where a secret or a config comes from.
fn source(node: &Node, path: &Path, ways: &[&str]) -> Result<()> {
    if is_true(node.get("external")) {
        return Ok(());
    }
    let given = ways.iter().filter(|way| node.get(way).is_some()).count();
    match given {
        1 => Ok(()),
        0 => {
            let reason = format!("it comes from nowhere: it needs one of {}", ways.join(", "));
            Err(Error::field(&node.at, path, reason))
        }
        _ => {
            let reason = format!("it may have only one of {}", ways.join(", "));
            Err(Error::field(&node.at, path, reason))
        }
    }
}

pub fn is_true(node: Option<&Node>) -> bool {
    node.is_some_and(|node| node.kind == Kind::Bool(true))
}

struct Service<'a> {
    node: &'a Node,
    path: Path,
    model: &'a Node,
}

impl Service<'_> {
    fn check(&self) -> Result<()> {
        self.image()?;
        self.networks()?;
        self.dependencies()?;
        self.mounts()?;
        self.grants()?;
        self.health()?;
        self.replicas()?;
        Trigger::of(self.node, &self.path)?;
        self.limits()
    }

    fn wrong<T>(&self, at: &Node, field: &str, reason: impl Into<String>) -> Result<T> {
        let path = match field {
            "" => self.path.clone(),
            field => self.path.key(field),
        };
        Err(Error::field(&at.at, &path, reason))
    }

    fn has(&self, field: &str) -> Option<&Node> {
        self.node.get(field).filter(|node| !node.is_null())
    }

    fn text(&self, field: &str) -> Option<String> {
        self.has(field).and_then(Node::scalar)
    }

    fn declared(&self, kind: &str, name: &str) -> bool {
        let all = self.model.get(kind);
        all.is_some_and(|all| all.get(name).is_some())
    }

    fn image(&self) -> Result<()> {
        for unsupported in ["provider"] {
            if let Some(node) = self.has(unsupported) {
                let reason = "services of providers are not made; use an image or a build";
                return self.wrong(node, unsupported, reason);
            }
        }
        let Some(build) = self.has("build") else {
            if self.text("image").is_none_or(|image| image.is_empty()) {
                let reason = "it needs an image, or a build that makes one";
                return self.wrong(self.node, "", reason);
            }
            return Ok(());
        };
        if build.get("dockerfile").is_some() && build.get("dockerfile_inline").is_some() {
            let reason = "dockerfile and dockerfile_inline exclude each other";
            return self.wrong(build, "build", reason);
        }
        Ok(())
    }

    fn networks(&self) -> Result<()> {
        let networks = self.has("networks");
        if let (Some(mode), Some(networks)) = (self.has("network_mode"), networks)
            && !networks.entries().is_empty()
        {
            let reason = "network_mode and networks exclude each other; keep one";
            return self.wrong(mode, "network_mode", reason);
        }
        for entry in networks.map(Node::entries).unwrap_or_default() {
            if !self.declared("networks", &entry.key) {
                let reason = format!(
                    "no network is called {:?}; declare it below networks at the end of the file",
                    entry.key
                );
                return Err(Error::field(&entry.at, &self.path.key("networks"), reason));
            }
        }
        Ok(())
    }

    fn dependencies(&self) -> Result<()> {
        for entry in self
            .has("depends_on")
            .map(Node::entries)
            .unwrap_or_default()
        {
            let path = self.path.key("depends_on").key(&entry.key);
            let condition = entry.value.get("condition").and_then(Node::scalar);
            let known = [
                "service_started",
                "service_healthy",
                "service_completed_successfully",
            ];
            if let Some(condition) = condition
                && !known.contains(&condition.as_str())
            {
                let reason = format!(
                    "{condition:?} is no condition; there are {}",
                    known.join(", ")
                );
                return Err(Error::field(&entry.value.at, &path, reason));
            }
            if !self.declared("services", &entry.key) && is_true(entry.value.get("required")) {
                let reason = format!(
                    "no service is called {:?}, or its profile is not in use",
                    entry.key
                );
                return Err(Error::field(&entry.at, &path, reason));
            }
        }
        for field in ["network_mode", "ipc", "pid", "uts"] {
            if let Some(text) = self.text(field)
                && let Some(name) = text.strip_prefix("service:")
                && !self.declared("services", name)
            {
                let reason = format!("no service is called {name:?}");
                return self.wrong(self.node, field, reason);
            }
        }
        Ok(())
    }

    fn mounts(&self) -> Result<()> {
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        for field in ["tmpfs", "volumes"] {
            let items = self.has(field).map(Node::items).unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                let path = self.path.key(field).index(index);
                let target = match item.get("target").and_then(Node::scalar) {
                    Some(target) => target,
                    None => {
                        let text = item.scalar().unwrap_or_default();
                        text.split(':').next().unwrap_or_default().to_owned()
                    }
                };
                if !target.starts_with('/') {
                    let reason =
                        format!("{target:?} has to begin with /: it is a place in the container");
                    return Err(Error::field(&item.at, &path, reason));
                }
                if let Some(other) = taken.insert(target.clone(), path.to_string()) {
                    let reason = format!("{target} has {other} already");
                    return Err(Error::field(&item.at, &path, reason));
                }
                let source = item.get("source").and_then(Node::scalar);
                let is_volume = item.get("type").and_then(Node::as_text) == Some("volume");
                if let Some(source) = source.filter(|source| is_volume && !source.is_empty())
                    && !self.declared("volumes", &source)
                {
                    let reason = format!(
                        "no volume is called {source:?}; declare it below volumes at the end of \
                         the file, or write ./{source} for a directory"
                    );
                    return Err(Error::field(&item.at, &path, reason));
                }
            }
        }
        Ok(())
    }

    fn grants(&self) -> Result<()> {
        let of_build = self.has("build").and_then(|build| build.get("secrets"));
        let build = self.path.key("build").key("secrets");
        let granted = [
            ("secrets", self.has("secrets"), self.path.key("secrets")),
            ("configs", self.has("configs"), self.path.key("configs")),
            ("secrets", of_build, build),
        ];
        for (kind, items, path) in granted {
            let items = items.map(Node::items).unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                let source = item
                    .get("source")
                    .and_then(Node::scalar)
                    .unwrap_or_default();
                let path = path.index(index);
                if !self.declared(kind, &source) {
                    let reason =
                        format!("{source:?} is not declared below {kind} at the end of the file");
                    return Err(Error::field(&item.at, &path, reason));
                }
                let declared = self.model.get(kind).and_then(|all| all.get(&source));
                if is_true(declared.and_then(|declared| declared.get("external"))) {
                    let reason = format!(
                        "{source:?} is external, which only orchestrators have; use a file or \
                         a variable"
                    );
                    return Err(Error::field(&item.at, &path, reason));
                }
            }
        }
        Ok(())
    }

    fn health(&self) -> Result<()> {
        let test = self
            .has("healthcheck")
            .and_then(|health| health.get("test"));
        let Some(test) = test else {
            return Ok(());
        };
        let first = test.items().first().and_then(Node::scalar);
        match first.as_deref() {
            None | Some("NONE" | "CMD" | "CMD-SHELL") => Ok(()),
            Some(other) => {
                let reason =
                    format!("a list begins with CMD, CMD-SHELL or NONE, and not with {other:?}");
                self.wrong(test, "healthcheck.test", reason)
            }
        }
    }

    fn replicas(&self) -> Result<()> {
        let number = |node: Option<&Node>| match node.map(|node| &node.kind) {
            Some(Kind::Int(number)) => Some(*number),
            _ => None,
        };
        let scale = number(self.has("scale"));
        let replicas = number(self.has("deploy").and_then(|deploy| deploy.get("replicas")));
        if let (Some(scale), Some(replicas)) = (scale, replicas)
            && scale != replicas
        {
            let reason = format!("scale is {scale} and deploy.replicas {replicas}; keep one");
            return self.wrong(self.node, "scale", reason);
        }
        let count = scale.or(replicas).unwrap_or(1);
        if count < 0 {
            return self.wrong(self.node, "scale", "it cannot be less than 0");
        }
        if let Some(name) = self.has("container_name").filter(|_| count > 1) {
            let reason = format!("{count} containers cannot have one name; drop container_name");
            return self.wrong(name, "container_name", reason);
        }
        Ok(())
    }

    fn limits(&self) -> Result<()> {
        let deploy = self
            .has("deploy")
            .and_then(|deploy| deploy.get("resources"));
        for (field, kind, other) in [
            ("cpus", "limits", "cpus"),
            ("mem_limit", "limits", "memory"),
            ("pids_limit", "limits", "pids"),
            ("mem_reservation", "reservations", "memory"),
        ] {
            let Some(one) = self.has(field) else {
                continue;
            };
            let resource = deploy.and_then(|deploy| deploy.get(kind));
            if let Some(two) = resource.and_then(|resource| resource.get(other))
                && one.kind != two.kind
            {
                let reason = format!("it differs from deploy.resources.{kind}.{other}; keep one");
                return self.wrong(one, field, reason);
            }
        }
        Ok(())
    }
}
