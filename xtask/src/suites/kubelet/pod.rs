//! A pod's status as the kubelet tells it.

use serde_json::Value;

pub struct Pod(Value);

/// One container, of whatever kind.
pub struct Container<'a>(&'a Value);

impl Pod {
    pub fn new(pod: Value) -> Self {
        Self(pod)
    }

    pub fn status(&self) -> &Value {
        &self.0["status"]
    }

    pub fn uid(&self) -> &str {
        self.0["metadata"]["uid"].as_str().unwrap_or_default()
    }

    pub fn phase(&self) -> &str {
        self.status()["phase"].as_str().unwrap_or_default()
    }

    pub fn is_ready(&self) -> bool {
        let conditions = self.status()["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    }

    /// Addresses in the order of the status.
    pub fn ips(&self) -> Vec<&str> {
        let ips = self.status()["podIPs"].as_array();
        ips.into_iter()
            .flatten()
            .filter_map(|ip| ip["ip"].as_str())
            .collect()
    }

    /// Of all kinds, init containers first.
    pub fn containers(&self) -> Vec<Container<'_>> {
        ["initContainerStatuses", "containerStatuses"]
            .iter()
            .filter_map(|kind| self.status()[*kind].as_array())
            .flatten()
            .map(Container)
            .collect()
    }

    pub fn container(&self, name: &str) -> Container<'_> {
        let mut all = self.containers().into_iter();
        all.find(|container| container.name() == name)
            .unwrap_or(Container(&Value::Null))
    }

    /// States of the containers, for people.
    pub fn told(&self) -> String {
        let states = self.containers().into_iter().map(|container| {
            let (name, state) = (container.name(), &container.0["state"]);
            format!("{name} {state}")
        });
        format!("{} {}", self.phase(), states.collect::<Vec<_>>().join(", "))
    }
}

impl Container<'_> {
    pub fn name(&self) -> &str {
        self.0["name"].as_str().unwrap_or_default()
    }

    /// As the CRI knows it.
    pub fn id(&self) -> &str {
        let id = self.0["containerID"].as_str().unwrap_or_default();
        id.split_once("://").map_or(id, |(_, id)| id)
    }

    pub fn restarts(&self) -> u64 {
        self.0["restartCount"].as_u64().unwrap_or_default()
    }

    pub fn is_running(&self) -> bool {
        self.0["state"]["running"].is_object()
    }

    pub fn waits_for(&self) -> &str {
        self.0["state"]["waiting"]["reason"]
            .as_str()
            .unwrap_or_default()
    }

    /// How it ended, now or the last time.
    pub fn end(&self) -> &Value {
        let now = &self.0["state"]["terminated"];
        if now.is_object() {
            now
        } else {
            &self.0["lastState"]["terminated"]
        }
    }
}
