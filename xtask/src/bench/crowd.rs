//! Many pods at once, started and removed by several clients.

use std::fs;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use berth_api::cri::v1::NamespaceMode;

use super::load;
use crate::cgroup_parent::CgroupParent;
use crate::cri::Cri;
use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::workspace;

const CLIENTS: usize = 4;

/// Room for more pods than the /24 of a suite has.
const RANGE: &str = "[bridge]\nsubnets = [\"100.99.0.0/20\"]\n";

/// A place for that many pods, with the image that they run.
pub struct Scene {
    pub place: Place,
    pub image: String,
    programs: PathBuf,
    log: PathBuf,
    _registry: Registry,
}

impl Scene {
    /// With a daemon that has the image; it logs as the bench with this name.
    pub fn make(bench: &str, released: bool) -> Result<(Self, Daemon)> {
        if !rustix::process::geteuid().is_root() {
            bail!("needs root");
        }
        let programs = super::programs(released)?;
        let place = Place::as_on_a_node()?;
        let drop_in = place.config().with_extension("toml.d").join("range.toml");
        fs::write(&drop_in, RANGE).context("writing the range of the pods")?;
        let registry = Registry::start(&place.scratch())?;
        let image = load::publish_small(&registry)?;
        let log = workspace::logs()?.join(format!("{bench}-berthd.log"));
        let _fresh = fs::remove_file(&log);
        let scene = Self {
            place,
            image,
            programs,
            log,
            _registry: registry,
        };
        let daemon = scene.daemon()?;
        Cri::connect(&scene.place.socket())?
            .pull(&scene.image)
            .context("PullImage")?;
        Ok((scene, daemon))
    }

    /// Another daemon, after the first.
    pub fn daemon(&self) -> Result<Daemon> {
        Daemon::start_from(&self.programs, &self.place, &self.log)
    }
}

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
