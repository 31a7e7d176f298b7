//! Many pods at once, started and removed by several clients.

use std::thread;

use anyhow::{Context, Result, anyhow};
use berth_api::cri::v1::NamespaceMode;

use super::load;
use crate::cgroup_parent::CgroupParent;
use crate::cri::Cri;
use crate::place::Place;

const CLIENTS: usize = 4;

/// Room for more pods than the /24 of a suite has.
pub const RANGE: &str = "[bridge]\nsubnets = [\"100.99.0.0/20\"]\n";

/// Ids of a pod and its container.
pub type Made = (String, String);

/// Starts pods numbered from `first` up to `end`, with one container each.
pub fn start(
    place: &Place,
    image: &str,
    parent: Option<&CgroupParent>,
    first: usize,
    end: usize,
) -> Result<Vec<Made>> {
    by_clients(|client| {
        let mut cri = Cri::connect(&place.socket())?;
        let numbers = (first + client..end).step_by(CLIENTS);
        numbers
            .map(|number| {
                let name = format!("crowd-{number}");
                let logs = place.pod_logs();
                let (mut pod_config, mut config) =
                    load::requests(&name, image, &logs, NamespaceMode::Pod);
                if let (Some(linux), Some(parent)) = (&mut pod_config.linux, parent) {
                    linux.cgroup_parent = parent.request();
                }
                config.log_path = format!("{name}.log");
                let pod = cri.run_pod(&pod_config).context("RunPodSandbox")?;
                let container = cri
                    .create(&pod, &pod_config, &config)
                    .context("CreateContainer")?;
                cri.start(&container).context("StartContainer")?;
                Ok((pod, container))
            })
            .collect()
    })
}

pub fn remove(place: &Place, made: &[Made]) -> Result<()> {
    by_clients(|client| {
        let mut cri = Cri::connect(&place.socket())?;
        for (pod, _) in made.iter().skip(client).step_by(CLIENTS) {
            cri.stop_pod(pod).context("StopPodSandbox")?;
            cri.remove_pod(pod).context("RemovePodSandbox")?;
        }
        Ok(Vec::new())
    })
    .map(drop)
}

fn by_clients(work: impl Fn(usize) -> Result<Vec<Made>> + Sync) -> Result<Vec<Made>> {
    thread::scope(|scope| {
        let work = &work;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || work(client)))
            .collect();
        let mut made = Vec::new();
        for client in clients {
            made.extend(client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(made)
    })
}
