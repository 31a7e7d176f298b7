//! How soon a kubelet's pod is ready, and gone.

use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::ContainerState;
use serde_json::json;

use super::PATIENCE;
use super::manifest;
use super::session::Session;
use crate::command::retry;

/// All in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// From the manifest to the pod that the kubelet calls ready.
    pub ready: f64,
    /// What of it the kubelet waited for its runtime.
    pub in_runtime: f64,
    /// From the manifest's removal to the end of the container.
    pub gone: f64,
}

impl fmt::Display for Times {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ready,
            in_runtime,
            gone,
        } = self;
        write!(
            out,
            "manifest to ready {ready:.2} s, {in_runtime:.3} s of it in the runtime; \
             removal to its end {gone:.2} s"
        )
    }
}

/// One pod, from its manifest to its end.
pub fn start_and_end(session: &mut Session, name: &str) -> Result<Times> {
    let container = manifest::container(session, "main", manifest::STAY, json!({}));
    let pod = manifest::pod(session, name, json!({ "containers": [container] }));
    let before = session.kubelet()?.seconds_in_runtime()?;
    let begin = Instant::now();
    session.put(name, &pod)?;
    let ready = retry(PATIENCE, || session.ready(name))?;
    let took = begin.elapsed();
    let in_runtime = session.kubelet()?.seconds_in_runtime()? - before;
    let id = ready.container("main").id().to_owned();
    let begin = Instant::now();
    session.take_away(name)?;
    retry(PATIENCE, || {
        let containers = session.cri.containers().context("ListContainers")?;
        let found = containers.iter().find(|found| found.id == id);
        let runs = found.is_some_and(|found| found.state() == ContainerState::ContainerRunning);
        ensure!(!runs, "its container goes on");
        Ok(())
    })?;
    Ok(Times {
        ready: took.as_secs_f64(),
        in_runtime,
        gone: begin.elapsed().as_secs_f64(),
    })
}
