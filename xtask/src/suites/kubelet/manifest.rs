//! Manifests of static pods.

use serde_json::{Map, Value, json};

use super::session::{Session, evidence};

/// A loop that ends at once when it is told to.
pub const STAY: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// A pod with the directory for evidence, to be mounted as `evidence`, and an emptyDir `work`.
pub fn pod(session: &Session, name: &str, spec: Value) -> Value {
    let mut whole = json!({
        "volumes": [
            { "name": "evidence", "hostPath": {
                "path": evidence(&session.place), "type": "Directory" } },
            { "name": "work", "emptyDir": {} },
        ],
        "terminationGracePeriodSeconds": 5,
    });
    extend(&mut whole, spec);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": whole,
    })
}

/// A container that runs `script`, with both volumes and what `more` says.
pub fn container(session: &Session, name: &str, script: &str, more: Value) -> Value {
    let mut whole = json!({
        "name": name,
        "image": session.image("busybox"),
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "volumeMounts": [
            { "name": "evidence", "mountPath": "/evidence" },
            { "name": "work", "mountPath": "/work" },
        ],
    });
    extend(&mut whole, more);
    whole
}

/// A probe that looks every second and forgives nothing.
pub fn probe(action: Value) -> Value {
    let mut whole = json!({ "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5 });
    extend(&mut whole, action);
    whole
}

/// Lists grow, everything else is replaced.
fn extend(whole: &mut Value, more: Value) {
    let none = Map::new();
    for (key, value) in more.as_object().unwrap_or(&none) {
        match (whole[key].as_array_mut(), value.as_array()) {
            (Some(present), Some(further)) => present.extend(further.iter().cloned()),
            _ => whole[key] = value.clone(),
        }
    }
}
