//! Runtime handlers: who runs a pod's containers, by the name that a RuntimeClass gives.
//!
//! Namespaces, network, images, logs and limits are the same for all. A handler decides which shim
//! makes the processes, and what of a request reaches it.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_shim_client::ForeignShim;

use crate::error::{Error, Result};

/// The version of the runtime specification that specifications are written in.
pub const OCI_VERSION: &str = "1.2.0";

/// Who makes the processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runner {
    /// Berth's own shim.
    Own,
    /// Another shim v2.
    Foreign(ForeignShim),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    pub recursive_read_only_mounts: bool,
    pub user_namespaces: bool,
}

/// One handler as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    pub name: String,
    pub runner: Runner,
    /// Keys that reach the specification; a final `*` stands for any rest.
    pub pod_annotations: Vec<String>,
    pub container_annotations: Vec<String>,
    /// Privileged containers get no device of the host but those that they ask for.
    pub privileged_without_host_devices: bool,
    pub features: Features,
    /// Of the specifications that its runtime understands.
    pub oci_version: String,
}

impl Handler {
    /// Berth's own runtime under this name.
    pub fn own(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            runner: Runner::Own,
            pod_annotations: Vec::new(),
            container_annotations: Vec::new(),
            privileged_without_host_devices: false,
            features: Features {
                recursive_read_only_mounts: true,
                user_namespaces: true,
            },
            oci_version: OCI_VERSION.to_owned(),
        }
    }

    /// What of a pod's and a container's annotations the runtime gets to see; the container's win.
    pub(crate) fn annotations<'a>(
        &'a self,
        pod: &'a BTreeMap<String, String>,
        container: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'a String, &'a String)> {
        let of_pod = pod
            .iter()
            .filter(|(key, _)| matches(&self.pod_annotations, key));
        let of_container = container
            .iter()
            .filter(|(key, _)| matches(&self.container_annotations, key));
        of_pod.chain(of_container)
    }
}

fn matches(patterns: &[String], key: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => key.starts_with(start),
            None => pattern == key,
        })
}

/// All handlers of a daemon.
#[derive(Debug, Clone)]
pub struct Handlers {
    default: Arc<Handler>,
    named: BTreeMap<String, Arc<Handler>>,
}

impl Handlers {
    /// `default` answers to the empty name; its own name need not be among `named`.
    pub fn new(default: Handler, named: impl IntoIterator<Item = Handler>) -> Self {
        let default = Arc::new(default);
        let mut all: BTreeMap<String, Arc<Handler>> = named
            .into_iter()
            .map(|handler| (handler.name.clone(), Arc::new(handler)))
            .collect();
        all.entry(default.name.clone())
            .or_insert_with(|| Arc::clone(&default));
        Self {
            default,
            named: all,
        }
    }

    pub(crate) fn find(&self, name: &str) -> Result<Arc<Handler>> {
        if name.is_empty() {
            return Ok(Arc::clone(&self.default));
        }
        let found = self.named.get(name).cloned();
        found.ok_or_else(|| Error::UnknownHandler {
            name: name.to_owned(),
            known: self.named.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// Every name that a pod may ask for, the empty one first.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Handler)> {
        let named = self
            .named
            .iter()
            .map(|(name, handler)| (name.as_str(), &**handler));
        std::iter::once(("", &*self.default)).chain(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_name_is_the_default_and_an_unknown_one_lists_the_known() {
        let handlers = Handlers::new(Handler::own("berth"), [Handler::own("runc")]);
        assert_eq!(handlers.find("").unwrap().name, "berth");
        assert_eq!(handlers.find("berth").unwrap().name, "berth");
        let error = handlers.find("kata").unwrap_err().to_string();
        assert!(
            error.contains("kata") && error.contains("berth, runc"),
            "{error}"
        );
        let names: Vec<&str> = handlers.all().map(|(name, _)| name).collect();
        assert_eq!(names, ["", "berth", "runc"]);
    }

    #[test]
    fn only_annotations_that_are_allowed_pass() {
        let map = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let handler = Handler {
            pod_annotations: vec!["io.kata.*".into()],
            container_annotations: vec!["exact".into()],
            ..Handler::own("x")
        };
        let pod: BTreeMap<_, _> = map(&[("io.kata.a", "1"), ("io.katas", "2"), ("exact", "3")]);
        let container = map(&[("exact", "4"), ("exact.not", "5"), ("io.kata.b", "6")]);
        let passed: Vec<&str> = handler
            .annotations(&pod, &container)
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(passed, ["1", "4"]);
    }
}
