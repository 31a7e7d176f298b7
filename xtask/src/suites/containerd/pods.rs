//! A pod as a kubelet asks containerd's CRI plugin for one.

use std::fs;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1 as api;

use super::Step;
use super::session::{IMAGE, SOON, Session};
use crate::command::retry;
use crate::cri::{self, Cri};
use crate::suites::checks::same;

pub const STEPS: &[(&str, Step)] = &[
    (
        "the CRI plugin runs a pod, and limits are changed under it",
        pod,
    ),
    ("the CRI plugin tells an end and a kill for memory", ends),
];

/// One on the network of the host: no plugin is asked.
fn config(session: &Session, name: &str) -> api::PodSandboxConfig {
    let mut config = cri::pod(name, &session.parent.request(), &session.place.pod_logs());
    let options = api::NamespaceOption {
        network: api::NamespaceMode::Node as i32,
        ..Default::default()
    };
    if let Some(linux) = &mut config.linux {
        linux.security_context = Some(api::LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        });
    }
    config
}

fn container(name: &str, script: &str) -> api::ContainerConfig {
    let mut config = cri::container(name, IMAGE, &["sh", "-c", script]);
    let linux = config.linux.as_mut();
    if let Some(security) = linux.and_then(|linux| linux.security_context.as_mut()) {
        security.namespace_options = Some(api::NamespaceOption {
            network: api::NamespaceMode::Node as i32,
            ..Default::default()
        });
    }
    config
}

/// Makes the pod, does something in it, and removes it whatever came of that.
fn in_pod(
    session: &Session,
    name: &str,
    work: impl FnOnce(&mut Cri, &str, &api::PodSandboxConfig) -> Result<()>,
) -> Result<()> {
    let mut cri = Cri::connect(&session.socket())?;
    let config = config(session, name);
    let pod = cri.run_pod_by(&config, "berth").context("RunPodSandbox")?;
    let done = work(&mut cri, &pod, &config);
    cri.stop_pod(&pod).context("StopPodSandbox")?;
    cri.remove_pod(&pod).context("RemovePodSandbox")?;
    // The plugin's shims leave the cgroup of the pod behind.
    session.parent.clear().and(done)
}

fn pod(session: &mut Session) -> Result<()> {
    let logs = session.place.pod_logs();
    let parent = &session.parent;
    in_pod(session, "pod", |cri, pod, pod_config| {
        let script = "echo begun; while :; do sleep 1; done";
        let id = cri.create(pod, pod_config, &container("one", script))?;
        cri.start(&id).context("StartContainer")?;
        let said = cri.exec(&id, &["sh", "-c", "echo said; exit 3"])?;
        same("code", said.exit_code, 3)?;
        same("output", &*said.stdout, b"said\n")?;
        retry(SOON, || {
            let log = fs::read_to_string(logs.join("one.log")).context("reading the log")?;
            ensure!(log.ends_with("stdout F begun\n"), "the log is {log:?}");
            Ok(())
        })?;
        let limit = |parent: &crate::cgroup_parent::CgroupParent| {
            parent.value(&id, "memory.limit_in_bytes", "memory.max")
        };
        same("limit of memory", limit(parent)?, 64 << 20)?;
        let changed = api::LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            cpu_shares: 256,
            ..Default::default()
        };
        cri.update(&id, &changed)
            .context("UpdateContainerResources")?;
        same("limit of memory", limit(parent)?, 96 << 20)?;
        let sample = cri.sample(&id).context("ContainerStats")?;
        let used = sample.memory.and_then(|memory| memory.usage_bytes);
        let used = used.map_or(0, |used| used.value);
        ensure!(used > 0, "no memory is used");
        cri.stop(&id, 0).context("StopContainer")?;
        same("code", cri.status(&id)?.exit_code, 137)?;
        cri.remove(&id).context("RemoveContainer")
    })
}

fn ends(session: &mut Session) -> Result<()> {
    in_pod(session, "ends", |cri, pod, pod_config| {
        let cases = [
            ("code", "exit 42", 42, "Error"),
            ("memory", "exec tail /dev/zero", 137, "OOMKilled"),
        ];
        for (name, script, code, reason) in cases {
            let id = cri.create(pod, pod_config, &container(name, script))?;
            cri.start(&id).context("StartContainer")?;
            let exited = api::ContainerState::ContainerExited as i32;
            let status = retry(SOON, || {
                let status = cri.status(&id)?;
                ensure!(status.state == exited, "{name} goes on");
                Ok(status)
            })?;
            same(name, (status.exit_code, &*status.reason), (code, reason))?;
            cri.remove(&id).context("RemoveContainer")?;
        }
        Ok(())
    })
}
