//! What a list is narrowed by; empty fields do not narrow.

use std::collections::{BTreeMap, HashMap};

use berth_api::cri::v1 as cri;
use berth_lifecycle::record::{ContainerRecord, PodRecord, PodState};

use crate::tell;

#[derive(Default)]
pub struct ContainerFilter {
    id: String,
    pod: String,
    state: Option<i32>,
    labels: HashMap<String, String>,
}

impl ContainerFilter {
    pub fn takes(&self, record: &ContainerRecord) -> bool {
        record.id.as_str().starts_with(&self.id)
            && record.pod.as_str().starts_with(&self.pod)
            && self
                .state
                .is_none_or(|state| tell::container_state(record.state) as i32 == state)
            && labelled(&record.request.labels, &self.labels)
    }
}

impl From<Option<cri::ContainerFilter>> for ContainerFilter {
    fn from(filter: Option<cri::ContainerFilter>) -> Self {
        filter.map_or_else(Self::default, |filter| Self {
            id: filter.id,
            pod: filter.pod_sandbox_id,
            state: filter.state.map(|value| value.state),
            labels: filter.label_selector,
        })
    }
}

impl From<Option<cri::ContainerStatsFilter>> for ContainerFilter {
    fn from(filter: Option<cri::ContainerStatsFilter>) -> Self {
        filter.map_or_else(Self::default, |filter| Self {
            id: filter.id,
            pod: filter.pod_sandbox_id,
            state: None,
            labels: filter.label_selector,
        })
    }
}

#[derive(Default)]
pub struct PodFilter {
    id: String,
    state: Option<i32>,
    labels: HashMap<String, String>,
}

impl PodFilter {
    pub fn ready() -> Self {
        Self {
            state: Some(tell::pod_state(PodState::Ready) as i32),
            ..Self::default()
        }
    }

    pub fn takes(&self, record: &PodRecord) -> bool {
        record.id.as_str().starts_with(&self.id)
            && self
                .state
                .is_none_or(|state| tell::pod_state(record.state) as i32 == state)
            && labelled(&record.request.labels, &self.labels)
    }
}

impl From<Option<cri::PodSandboxFilter>> for PodFilter {
    fn from(filter: Option<cri::PodSandboxFilter>) -> Self {
        filter.map_or_else(Self::default, |filter| Self {
            id: filter.id,
            state: filter.state.map(|value| value.state),
            labels: filter.label_selector,
        })
    }
}

impl From<Option<cri::PodSandboxStatsFilter>> for PodFilter {
    fn from(filter: Option<cri::PodSandboxStatsFilter>) -> Self {
        filter.map_or_else(Self::default, |filter| Self {
            id: filter.id,
            state: None,
            labels: filter.label_selector,
        })
    }
}

fn labelled(labels: &BTreeMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
