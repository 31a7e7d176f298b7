//! Ids of another kind, and calls at the wrong time.

use anyhow::{Context, Result, ensure};
use prost_reflect::Value;
use tonic::Code;

use super::calls::{Calls, Shape};
use crate::suites::node::session::Session;

/// What ends something succeeds for what is not there, as kubelets repeat themselves.
const REPEATABLE: [&str; 4] = [
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];

/// A pod's id where a container's belongs, and the other way round.
pub fn kinds(session: &mut Session) -> Result<()> {
    let mut calls = Calls::new(session)?;
    let mut wrong = Vec::new();
    for rpc in calls.wire.rpcs() {
        let sound = calls.sound(&rpc)?;
        for (field, other) in [
            ("container_id", calls.pod.clone()),
            ("pod_sandbox_id", calls.container.clone()),
        ] {
            if !sound.descriptor_has(field) {
                continue;
            }
            let mut request = sound.clone();
            request.set_field_by_name(field, Value::String(other));
            let code = match calls.wire.call(&rpc, &request) {
                Ok(_) => Code::Ok,
                Err(status) => status.code(),
            };
            let expected = if REPEATABLE.contains(&rpc.name()) {
                Code::Ok
            } else {
                Code::NotFound
            };
            if code != expected {
                wrong.push(format!("{} {field}: {code:?}", rpc.name()));
            }
        }
    }
    let (pod, container) = (calls.pod.clone(), calls.container.clone());
    calls.renew()?;
    let same = pod == calls.pod && container == calls.container;
    calls.remove()?;
    ensure!(same, "the pod or the container was ended by the other's id");
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// Each call is sound but for its time.
pub fn order(session: &mut Session) -> Result<()> {
    let mut calls = Calls::new(session)?;
    let mut wrong = Vec::new();
    let created = calls.create("created", &["sleep", "3600"])?;
    let exited = calls.create("exited", &["true"])?;
    let cri = &mut calls.session.cri;
    cri.start(&exited).context("StartContainer")?;
    cri.stop(&exited, 5).context("StopContainer")?;
    let running = calls.container.clone();
    let asked: &[(&str, &str, &str)] = &[
        ("StartContainer", "running", &running),
        ("StartContainer", "exited", &exited),
        ("ExecSync", "created", &created),
        ("ExecSync", "exited", &exited),
        ("Exec", "created", &created),
        ("Exec", "exited", &exited),
        ("Attach", "created", &created),
        ("Attach", "exited", &exited),
        ("ReopenContainerLog", "created", &created),
        ("ReopenContainerLog", "exited", &exited),
        ("UpdateContainerResources", "exited", &exited),
    ];
    for (name, state, container) in asked {
        let rpc = calls.wire.rpc(name)?;
        let mut request = calls.sound(&rpc)?;
        request.set_field_by_name("container_id", Value::String((*container).to_owned()));
        if *name == "UpdateContainerResources" {
            let limits = rpc.input().get_field_by_name("linux");
            let limits = limits.context("the contract has no limits")?;
            request.set_field(&limits, Value::default_value_for_field(&limits));
        }
        let answer = calls.wire.call(&rpc, &request);
        note(&mut wrong, name, state, answer.map(drop));
    }
    let pod = calls.pod.clone();
    let cri = &mut calls.session.cri;
    cri.stop_pod(&pod).context("StopPodSandbox")?;
    for name in [
        "CreateContainer",
        "PortForward",
        "UpdatePodSandboxResources",
    ] {
        let rpc = calls.wire.rpc(name)?;
        let request = calls.sound(&rpc)?;
        let answer = calls.wire.call(&rpc, &request);
        note(&mut wrong, name, "stopped pod", answer.map(drop));
    }
    let start = calls.session.cri.start(&created);
    note(&mut wrong, "StartContainer", "stopped pod", start);
    calls.remove()?;
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

fn note(wrong: &mut Vec<String>, call: &str, state: &str, answer: crate::cri::Answer<()>) {
    match answer {
        Ok(()) => wrong.push(format!("{call} of {state} succeeded")),
        Err(status) if status.code() == Code::FailedPrecondition => {}
        Err(status) => wrong.push(format!(
            "{call} of {state}: {:?}: {}",
            status.code(),
            status.message()
        )),
    }
}
