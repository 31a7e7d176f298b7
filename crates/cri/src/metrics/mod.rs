//! Metrics of pods and containers, in place of the ones that kubelets took from cAdvisor.
//!
//! Values are whole numbers by the contract: seconds lose their fraction. Label values follow the
//! kubelet's cAdvisor endpoint:
//!
//! | of | `container` | `id` | `image` | `name` |
//! |---|---|---|---|---|
//! | a container | its name | its cgroup | its image | its id |
//! | a pod's cgroup | empty | the cgroup | empty | empty |
//! | a pod's network | `POD` | the pod's cgroup | empty | the pod's id |

mod definitions;
mod series;

#[cfg(test)]
mod tests;

use berth_api::cri::v1 as cri;
use berth_lifecycle::record::{ContainerRecord, PodRecord};
use berth_lifecycle::{ContainerSample, Filesystem, PodSample};

use definitions as metric;
use series::Series;

/// What `ListMetricDescriptors` answers.
pub fn descriptors() -> Vec<cri::MetricDescriptor> {
    metric::ALL.iter().map(metric::descriptor).collect()
}

/// One pod with its running containers; `layers` is the file system of writable layers.
pub fn pod(sample: &PodSample, layers: &Filesystem) -> cri::PodSandboxMetrics {
    let record = &sample.record;
    let containers = sample
        .containers
        .iter()
        .filter_map(|part| container(record, part, layers));
    cri::PodSandboxMetrics {
        pod_sandbox_id: record.id.to_string(),
        metrics: of_pod(sample),
        container_metrics: containers.collect(),
    }
}

fn of_pod(sample: &PodSample) -> Vec<cri::Metric> {
    let record = &sample.record;
    let parent = record.cgroup_parent.as_str();
    let mut metrics = Vec::new();
    if let (Some(stats), Some(details)) = (&sample.cgroup, &sample.details) {
        let mut series = Series::new(pod_labels(record, ["", parent, "", ""]));
        series.times(sample.at, record.created_at);
        series.cgroup(stats, details);
        metrics = series.metrics;
    }
    let labels = pod_labels(record, ["POD", parent, "", record.id.as_str()]);
    let mut network = Series::new(labels);
    for interface in &sample.interfaces {
        network.interface(interface);
    }
    metrics.append(&mut network.metrics);
    metrics
}

/// None where the container has just ended.
fn container(
    pod: &PodRecord,
    sample: &ContainerSample,
    layers: &Filesystem,
) -> Option<cri::ContainerMetrics> {
    let record = &sample.record;
    let (stats, details) = (sample.cgroup.as_ref()?, sample.details.as_ref()?);
    let own = [
        record.request.name.as_str(),
        record.cgroup.as_str(),
        image(record),
        record.id.as_str(),
    ];
    let mut series = Series::new(pod_labels(pod, own));
    series.times(sample.at, record.started_at);
    series.cgroup(stats, details);
    if let Some(found) = &details.processes {
        series.processes(found, details.load);
    }
    if let Some(usage) = &sample.writable {
        series.writable(usage, layers);
    }
    Some(cri::ContainerMetrics {
        container_id: record.id.to_string(),
        metrics: series.metrics,
    })
}

fn pod_labels(pod: &PodRecord, own: [&str; 4]) -> [String; 6] {
    let [container, id, image, name] = own.map(str::to_owned);
    let (namespace, pod) = (pod.request.namespace.clone(), pod.request.name.clone());
    [container, id, image, name, namespace, pod]
}

/// As the pod's author wrote it, where that is known.
fn image(record: &ContainerRecord) -> &str {
    let asked = &record.request;
    if asked.user_specified_image.is_empty() {
        &asked.image
    } else {
        &asked.user_specified_image
    }
}
