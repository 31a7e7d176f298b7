//! What has to hold after a daemon came back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_api::cri::v1 as api;
use tonic::Code;

use super::lane::{Lane, first_process};
use super::ledger::{Container, ContainerIs, Pod, PodIs, container_state, pod_state};
use super::world::{MARKER, World};
use crate::command::retry;

/// A stop that was cut short goes on behind the start.
const SOON: Duration = Duration::from_secs(10);

/// Everything that was acknowledged is there, nothing else is, and whatever was under way is one
/// thing or the other. The ledgers know more afterwards.
pub fn judge(world: &mut World, lanes: &mut [Lane]) -> Result<()> {
    let (pods, containers) = retry(SOON, || at_rest(world))?;
    let pods = by_name(pods)?;
    let mut known = BTreeSet::new();
    for lane in lanes.iter_mut() {
        for pod in &mut lane.pods {
            known.insert(pod.name.clone());
            let found = pods.get(&pod.name);
            settle_pod(world, pod, found).with_context(|| format!("pod {}", pod.name))?;
            for container in &mut pod.containers {
                settle(world, pod.id.as_deref(), container, &containers)
                    .with_context(|| format!("container {}", container.name))?;
            }
            again(world, pod).with_context(|| format!("again: pod {}", pod.name))?;
        }
        lane.forget_absent();
    }
    let strange: Vec<_> = pods.keys().filter(|name| !known.contains(*name)).collect();
    ensure!(
        strange.is_empty(),
        "pods that were removed or never made are listed: {strange:?}"
    );
    let of_lanes: BTreeSet<String> = lanes
        .iter()
        .flat_map(|lane| &lane.pods)
        .flat_map(|pod| &pod.containers)
        .map(Container::id)
        .collect();
    for container in &containers {
        ensure!(
            of_lanes.contains(&container.id),
            "container {} was removed or never made, and is listed",
            container.id
        );
    }
    addresses(world, lanes)
}

/// What is listed, once nothing runs in pods that are not ready.
fn at_rest(world: &mut World) -> Result<(Vec<api::PodSandbox>, Vec<api::Container>)> {
    let pods = world.cri.pods().context("ListPodSandbox")?;
    let containers = world.cri.containers().context("ListContainers")?;
    for pod in &pods {
        let ready = pod_state(pod.state()) == PodIs::Ready;
        let runs = |found: &&api::Container| {
            found.pod_sandbox_id == pod.id && container_state(found.state()) == ContainerIs::Running
        };
        if let Some(running) = containers.iter().find(runs).filter(|_| !ready) {
            bail!("container {} goes on in a stopped pod", running.id);
        }
    }
    Ok((pods, containers))
}

fn by_name(pods: Vec<api::PodSandbox>) -> Result<BTreeMap<String, api::PodSandbox>> {
    let mut found = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.clone().unwrap_or_default().name;
        if let Some(other) = found.insert(name.clone(), pod) {
            bail!("pod {name} is listed twice, once as {}", other.id);
        }
    }
    Ok(found)
}

fn settle_pod(world: &mut World, pod: &mut Pod, found: Option<&api::PodSandbox>) -> Result<()> {
    let state = found.map_or(PodIs::Absent, |found| pod_state(found.state()));
    ensure!(
        pod.may_be.contains(&state),
        "it is {state:?} and may only be {:?}",
        pod.may_be
    );
    pod.may_be = vec![state];
    let Some(found) = found else { return Ok(()) };
    if let Some(id) = &pod.id {
        ensure!(*id == found.id, "its id was {id} and is {}", found.id);
    }
    pod.id = Some(found.id.clone());
    if state == PodIs::Ready {
        let status = world
            .cri
            .pod_status(&found.id)
            .context("PodSandboxStatus")?;
        let status = status.status.unwrap_or_default();
        let ip = status.network.unwrap_or_default().ip;
        ensure!(!ip.is_empty(), "it is ready and has no address");
        ensure!(
            pod.ip.is_empty() || pod.ip == ip,
            "its address was {} and is {ip}",
            pod.ip
        );
        pod.ip = ip;
    }
    Ok(())
}

fn settle(
    world: &mut World,
    pod: Option<&str>,
    container: &mut Container,
    listed: &[api::Container],
) -> Result<()> {
    let mut named = listed.iter().filter(|found| {
        let name = found.metadata.clone().unwrap_or_default().name;
        name == container.name && Some(found.pod_sandbox_id.as_str()) == pod
    });
    let found = named.next();
    ensure!(named.next().is_none(), "it is listed twice");
    let state = found.map_or(ContainerIs::Absent, |found| container_state(found.state()));
    ensure!(
        container.may_be.contains(&state),
        "it is {state:?} and may only be {:?}",
        container.may_be
    );
    container.may_be = vec![state];
    let Some(found) = found else { return Ok(()) };
    if let Some(id) = &container.id {
        ensure!(*id == found.id, "its id was {id} and is {}", found.id);
    }
    container.id = Some(found.id.clone());
    match state {
        ContainerIs::Running => runs(world, container),
        ContainerIs::Exited => ended(world, container),
        ContainerIs::Created | ContainerIs::Absent => Ok(()),
    }
}

/// By the same process as ever, and open to commands.
fn runs(world: &mut World, container: &mut Container) -> Result<()> {
    let id = container.id();
    let process = first_process(&world.parent, &id);
    let process = process.context("it is running and has no process")?;
    if let Some(known) = &container.process {
        ensure!(
            *known == process,
            "its process was {known:?} and is {process:?}"
        );
    }
    let said = world.cri.pid(&id)?;
    ensure!(
        said == process.0,
        "its pid is {} and told as {said}",
        process.0
    );
    container.process = Some(process);
    let said = world.cri.exec(&id, &["cat", "/etc/marker"]);
    let said = said.context("ExecSync")?;
    ensure!(
        said.exit_code == 0 && said.stdout.trim_ascii() == MARKER.as_bytes(),
        "a command in it ended with {}",
        said.exit_code
    );
    Ok(())
}

fn ended(world: &mut World, container: &mut Container) -> Result<()> {
    let id = container.id();
    let status = world.cri.status(&id).context("ContainerStatus")?;
    ensure!(
        container.ends.contains(&status.exit_code),
        "it exited with {} ({}: {}) instead of {:?}",
        status.exit_code,
        status.reason,
        status.message,
        container.ends
    );
    ensure!(
        status.finished_at >= status.created_at,
        "it ended before it was made"
    );
    container.ends = vec![status.exit_code];
    let left = world.parent.pids(&id)?;
    ensure!(
        left.is_empty(),
        "it has ended, and processes {left:?} go on"
    );
    Ok(())
}

/// A client that did not hear asks again, and is told what there is.
fn again(world: &mut World, pod: &Pod) -> Result<()> {
    if !pod.is(PodIs::Ready) {
        return Ok(());
    }
    // Who made a container in it knows of it: for that one its name is taken.
    let is_known = pod
        .containers
        .iter()
        .any(|container| !container.is(ContainerIs::Absent));
    match world.cri.run_pod(&pod.config) {
        Ok(id) => {
            ensure!(pod.id() == id, "it was made a second time, as {id}");
            ensure!(!is_known, "it was given once more, with its containers");
        }
        Err(taken) if taken.code() == Code::AlreadyExists => {
            ensure!(taken.message().contains(&pod.id()), "{}", taken.message());
        }
        Err(other) => return Err(other).context("RunPodSandbox"),
    }
    for container in &pod.containers {
        if container.is(ContainerIs::Created) {
            let (id, config) = (pod.id(), &container.config);
            let id = world
                .cri
                .create(&id, &pod.config, config)
                .context("CreateContainer")?;
            ensure!(
                container.id() == id,
                "{} was made a second time",
                container.name
            );
        }
    }
    Ok(())
}

/// Each is one pod's, and none is kept for a pod that is gone.
fn addresses(world: &World, lanes: &[Lane]) -> Result<()> {
    let mut seen = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for pod in lanes.iter().flat_map(|lane| &lane.pods) {
        ids.insert(format!("{}.json", pod.id()));
        if pod.is(PodIs::Ready)
            && let Some(other) = seen.insert(pod.ip.clone(), pod.name.clone())
        {
            bail!(
                "pods {} and {other} have the same address {}",
                pod.name,
                pod.ip
            );
        }
    }
    retry(SOON, || {
        let directory = world.place.state().join("network/attachments");
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(
                ids.contains(&name),
                "an address is kept by {name}, which is no pod"
            );
        }
        Ok(())
    })
}

impl Lane {
    fn forget_absent(&mut self) {
        for pod in &mut self.pods {
            pod.containers
                .retain(|container| !container.is(ContainerIs::Absent));
        }
        self.pods.retain(|pod| !pod.is(PodIs::Absent));
    }
}
