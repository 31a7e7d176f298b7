//! Clients that leave half-way, and clients that ask twice at once.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_api::cri::v1 as cri;
use prost_reflect::prost::Message;
use tonic::Code;

use super::calls::Calls;
use crate::suites::node::session::Session;

/// How long clients listen before they leave, in milliseconds.
const PATIENCE: [u64; 6] = [0, 2, 5, 15, 40, 100];

/// A client that leaves and asks again is given what the first call made; where the answer had been
/// sent before it left, it is told that there is one.
pub fn cancelled(session: &mut Session) -> Result<()> {
    for patience in PATIENCE {
        let patience = Duration::from_millis(patience);
        life(session, patience).with_context(|| format!("left after {patience:?}"))?;
    }
    Ok(())
}

fn life(session: &mut Session, patience: Duration) -> Result<()> {
    let mut calls = Calls::new(session)?;
    calls.remove()?;
    let config = calls.session.pod("left");
    let run = cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    leave(&calls, "RunPodSandbox", run.encode_to_vec(), patience)?;
    let cri = &mut calls.session.cri;
    let pod = match cri.run_pod(&config) {
        Err(status) if status.code() == Code::AlreadyExists => only(cri.pods()?, |pod| pod.id)?,
        answer => answer.context("RunPodSandbox")?,
    };
    let container = calls.session.container("left", &["sleep", "3600"]);
    let create = cri::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(container.clone()),
        sandbox_config: None,
    };
    leave(&calls, "CreateContainer", create.encode_to_vec(), patience)?;
    let cri = &mut calls.session.cri;
    let container = match cri.create(&pod, &config, &container) {
        Err(status) if status.code() == Code::AlreadyExists => {
            only(cri.containers()?, |container| container.id)?
        }
        answer => answer.context("CreateContainer")?,
    };
    let start = cri::StartContainerRequest {
        container_id: container.clone(),
    };
    leave(&calls, "StartContainer", start.encode_to_vec(), patience)?;
    match calls.session.cri.start(&container) {
        Ok(()) => {}
        // The call that was left had its way.
        Err(status) if status.code() == Code::FailedPrecondition => {}
        Err(status) => bail!("StartContainer: {status}"),
    }
    let exec = cri::ExecSyncRequest {
        container_id: container.clone(),
        cmd: vec!["sleep".to_owned(), "3600".to_owned()],
        timeout: 0,
    };
    leave(&calls, "ExecSync", exec.encode_to_vec(), patience)?;
    let stop = cri::StopContainerRequest {
        container_id: container.clone(),
        timeout: 1,
    };
    leave(&calls, "StopContainer", stop.encode_to_vec(), patience)?;
    let remove = cri::RemovePodSandboxRequest {
        pod_sandbox_id: pod.clone(),
    };
    leave(&calls, "RemovePodSandbox", remove.encode_to_vec(), patience)?;
    calls.session.remove_pod(&pod)?;
    let left = calls.session.cri.pods().context("ListPodSandbox")?;
    ensure!(left.is_empty(), "{} pods are listed", left.len());
    Ok(())
}

/// The id of what a call made that had been answered: there is one and no more.
fn only<T>(made: Vec<T>, id: impl Fn(T) -> String) -> Result<String> {
    ensure!(made.len() == 1, "{} are listed", made.len());
    made.into_iter().next().map(id).context("none is listed")
}

fn leave(calls: &Calls<'_>, rpc: &str, request: Vec<u8>, patience: Duration) -> Result<()> {
    let rpc = calls.wire.rpc(rpc)?;
    let call = calls.wire.calling(&rpc, request);
    calls.wire.runtime.block_on(async {
        let _left = tokio::time::timeout(patience, call).await;
        // The connection has to be driven for the daemon to hear of it.
        tokio::time::sleep(Duration::from_millis(5)).await;
    });
    Ok(())
}

/// Two that ask for the same at once get the same thing, once.
pub fn twice(session: &mut Session) -> Result<()> {
    let mut calls = Calls::new(session)?;
    calls.remove()?;
    let config = calls.session.pod("twice");
    let run = cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let pod = both(&calls, "RunPodSandbox", &run, "pod_sandbox_id")?;
    let create = cri::CreateContainerRequest {
        pod_sandbox_id: pod.clone(),
        config: Some(calls.session.container("twice", &["sleep", "3600"])),
        sandbox_config: None,
    };
    let container = both(&calls, "CreateContainer", &create, "container_id")?;
    let start = cri::StartContainerRequest {
        container_id: container.clone(),
    };
    let codes = codes(&calls, "StartContainer", &start)?;
    let one = codes.contains(&Code::Ok) && codes.contains(&Code::FailedPrecondition);
    ensure!(one, "StartContainer twice: {codes:?}");
    let stop = cri::StopContainerRequest {
        container_id: container.clone(),
        timeout: 0,
    };
    all_well(&calls, "StopContainer", &stop)?;
    let remove = cri::RemoveContainerRequest {
        container_id: container,
    };
    all_well(&calls, "RemoveContainer", &remove)?;
    let stop = cri::StopPodSandboxRequest {
        pod_sandbox_id: pod.clone(),
    };
    all_well(&calls, "StopPodSandbox", &stop)?;
    let remove = cri::RemovePodSandboxRequest {
        pod_sandbox_id: pod,
    };
    all_well(&calls, "RemovePodSandbox", &remove)?;
    let pull = cri::PullImageRequest {
        image: Some(crate::cri::image(&calls.session.reference(":one"))),
        ..Default::default()
    };
    all_well(&calls, "PullImage", &pull)
}

fn all_well(calls: &Calls<'_>, rpc: &str, request: &impl Message) -> Result<()> {
    let codes = codes(calls, rpc, request)?;
    ensure!(codes == [Code::Ok, Code::Ok], "{rpc} twice: {codes:?}");
    Ok(())
}

fn codes(calls: &Calls<'_>, rpc: &str, request: &impl Message) -> Result<[Code; 2]> {
    let rpc = calls.wire.rpc(rpc)?;
    let call = || calls.wire.calling(&rpc, request.encode_to_vec());
    let (first, second) = calls
        .wire
        .runtime
        .block_on(async { tokio::join!(call(), call()) });
    let code = |answer: crate::cri::Answer<_>| answer.map_or_else(|s| s.code(), |_| Code::Ok);
    Ok([code(first), code(second)])
}

/// The id that both are answered with.
fn both(calls: &Calls<'_>, rpc: &str, request: &impl Message, field: &str) -> Result<String> {
    let descriptor = calls.wire.rpc(rpc)?;
    let call = || calls.wire.calling(&descriptor, request.encode_to_vec());
    let (first, second) = calls
        .wire
        .runtime
        .block_on(async { tokio::join!(call(), call()) });
    let id = |answer: crate::cri::Answer<prost_reflect::DynamicMessage>| -> Result<String> {
        let answer = answer.context(rpc.to_owned())?;
        let value = answer.get_field_by_name(field).context("no id")?;
        Ok(value.as_str().unwrap_or_default().to_owned())
    };
    let (first, second) = (id(first)?, id(second)?);
    ensure!(first == second, "{rpc} twice: {first} and {second}");
    Ok(first)
}
