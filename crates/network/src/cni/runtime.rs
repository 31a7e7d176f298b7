//! What the runtime tells plugins of a pod: arguments for all, and values for those that declare
//! the capability. https://www.cni.dev/docs/conventions/

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::pod::PodNetwork;
use crate::subnet::Subnet;

/// CNI_ARGS: the pod's identity. A value that could smuggle in another pair is refused.
pub(super) fn arguments(pod: &PodNetwork) -> Result<String> {
    let pairs = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", pod.namespace.as_str()),
        ("K8S_POD_NAME", pod.name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.id.as_str()),
        ("K8S_POD_UID", pod.uid.as_str()),
    ];
    for (name, value) in pairs {
        if value.contains([';', '=', '\0', '\n']) {
            return Err(Error::InvalidPod {
                sandbox: pod.id.clone(),
                field: name,
                reason: "it contains a separator",
            });
        }
    }
    Ok(pairs
        .map(|(name, value)| format!("{name}={value}"))
        .join(";"))
}

/// Every capability for which there is something to say.
pub(super) fn offers(pod: &PodNetwork, ranges: &[Subnet]) -> Map<String, Value> {
    let mut offers = Map::new();
    let mut offer = |name: &str, value: Value| _ = offers.insert(name.to_owned(), value);
    let ports: Vec<Value> = pod
        .port_mappings
        .iter()
        .filter(|mapping| mapping.published())
        .map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol.to_string(),
                "hostIP": mapping.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            })
        })
        .collect();
    if !ports.is_empty() {
        offer("portMappings", Value::Array(ports));
    }
    if let Some(limit) = pod.bandwidth {
        offer(
            "bandwidth",
            json!({
                "ingressRate": limit.ingress_rate,
                "ingressBurst": limit.ingress_burst,
                "egressRate": limit.egress_rate,
                "egressBurst": limit.egress_burst,
            }),
        );
    }
    if pod.dns != crate::pod::Dns::default() {
        offer(
            "dns",
            json!({
                "servers": pod.dns.servers,
                "searches": pod.dns.searches,
                "options": pod.dns.options,
            }),
        );
    }
    if !ranges.is_empty() {
        // One set per family: the pod gets an address of each.
        let sets: Vec<_> = ranges
            .iter()
            .map(|range| json!([{ "subnet": range }]))
            .collect();
        offer("ipRanges", Value::Array(sets));
    }
    if let Some(cgroup) = &pod.cgroup_parent {
        offer("cgroupPath", Value::String(cgroup.clone()));
    }
    if !pod.annotations.is_empty() {
        offer("io.kubernetes.cri.pod-annotations", json!(pod.annotations));
    }
    offers
}
