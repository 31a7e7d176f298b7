//! What the scenarios share: a node of registry, daemon and kubelet, and its pods.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_testkit::image::Recipe;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::Value;

use super::pod::Pod;
use super::process::{self, Kubelet, Node, Settings};
use crate::cgroup_parent::CgroupParent;
use crate::command::retry;
use crate::containerd::Containerd;
use crate::cri::Cri;
use crate::daemon::Daemon;
use crate::place::Place;
use crate::power;
use crate::registry::Registry;
use crate::suites::fixtures::{busybox, marker, pack};
use crate::workspace;

const SOON: Duration = Duration::from_secs(20);

/// What runs the kubelet's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Berth,
    /// To be compared with; it is not killed and not restarted.
    Containerd,
}

pub struct Session {
    pub cri: Cri,
    kubelet: Option<Kubelet>,
    daemon: Option<Daemon>,
    containerd: Option<Containerd>,
    registry: Registry,
    pub parent: CgroupParent,
    logs: [PathBuf; 2],
    // Last, in this order: everything above works in the place, and the kubelet changed the node.
    pub place: Place,
    _node: Node,
}

impl Session {
    pub fn begin(runtime: Runtime) -> Result<Self> {
        let place = Place::with_both_families()?;
        let registry = Registry::start(&place.scratch())?;
        let base = pack(&busybox()?)?;
        for name in ["busybox", "unused"] {
            let recipe = Recipe::new().layer(base.clone()).layer(marker(name)?);
            let image = recipe.env(&["PATH=/usr/bin:/bin"]).build()?;
            registry
                .remote()
                .push(&image, &format!("kubelet/{name}"), &["one"])?;
        }
        let logs = ["kubelet-berthd.log", "kubelet.log"];
        let logs = logs.map(|name| workspace::logs().map(|logs| logs.join(name)));
        let [daemon_log, kubelet_log] = logs;
        let logs = [daemon_log?, kubelet_log?];
        for log in &logs {
            let _fresh = fs::remove_file(log);
        }
        let node = Node::remember();
        let parent = CgroupParent::new("kubelet");
        parent.make()?;
        fs::create_dir_all(evidence(&place)).context("creating a directory for pods")?;
        let (daemon, containerd) = match runtime {
            Runtime::Berth => (Some(Daemon::start(&place, &logs[0])?), None),
            Runtime::Containerd => (None, Some(Containerd::start(&registry)?)),
        };
        let mut session = Self {
            cri: Cri::connect(&socket(&place, containerd.as_ref()))?,
            kubelet: None,
            daemon,
            containerd,
            registry,
            parent,
            logs,
            place,
            _node: node,
        };
        for name in ["busybox", "unused"] {
            session.cri.pull(&session.image(name)).context("pulling")?;
        }
        session.start_kubelet(Settings::default())?;
        Ok(session)
    }

    pub fn logs(&self) -> String {
        self.logs
            .each_ref()
            .map(|log| log.display().to_string())
            .join(" and ")
    }

    pub fn image(&self, name: &str) -> String {
        format!("{}/kubelet/{name}:one", self.registry.address())
    }

    pub fn kubelet(&self) -> Result<&Kubelet> {
        self.kubelet.as_ref().context("no kubelet runs")
    }

    pub fn start_kubelet(&mut self, settings: Settings) -> Result<()> {
        let root = self.parent.request();
        let runtime = socket(&self.place, self.containerd.as_ref());
        self.kubelet = Some(Kubelet::start(
            &self.place,
            &runtime,
            &root,
            settings,
            &self.logs[1],
        )?);
        Ok(())
    }

    pub fn stop_kubelet(&mut self) -> Result<()> {
        self.kubelet.take().context("no kubelet runs")?.stop()
    }

    pub fn kill_daemon(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()
    }

    pub fn start_daemon(&mut self) -> Result<()> {
        self.daemon = Some(Daemon::start(&self.place, &self.logs[0])?);
        self.cri = Cri::connect(&self.place.socket())?;
        Ok(())
    }

    /// Hands the kubelet a pod. A half-written manifest must not be read: it is moved in.
    pub fn put(&self, name: &str, manifest: &Value) -> Result<()> {
        let fresh = self.place.scratch().join("fresh-manifest");
        let there = process::manifests(&self.place).join(format!("{name}.json"));
        fs::write(&fresh, manifest.to_string())
            .and_then(|()| fs::rename(&fresh, &there))
            .with_context(|| format!("writing the manifest of {name}"))
    }

    pub fn take_away(&self, name: &str) -> Result<()> {
        let there = process::manifests(&self.place).join(format!("{name}.json"));
        fs::remove_file(there).with_context(|| format!("removing the manifest of {name}"))
    }

    /// A pod as the kubelet sees it now.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let full = format!("{name}-{}", process::NODE);
        let pods = self.kubelet()?.pods()?;
        let found = pods
            .into_iter()
            .find(|pod| pod["metadata"]["name"] == full.as_str());
        found
            .map(Pod::new)
            .with_context(|| format!("the kubelet knows no pod {name}"))
    }

    /// A pod that is ready, or what it lacks.
    pub fn ready(&self, name: &str) -> Result<Pod> {
        let pod = self.pod(name)?;
        ensure!(pod.is_ready(), "{name} is not ready: {}", pod.told());
        Ok(pod)
    }

    /// A file of the directory that pods may write into.
    pub fn said(&self, file: &str) -> Result<Vec<String>> {
        let path = evidence(&self.place).join(file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Standard output of a command in a container that has to succeed.
    pub fn exec(&mut self, container: &str, words: &[&str]) -> Result<String> {
        let answer = self.cri.exec(container, words).context("ExecSync")?;
        let told = String::from_utf8_lossy(&answer.stderr);
        ensure!(
            answer.exit_code == 0,
            "{words:?} ended with {}: {told}",
            answer.exit_code
        );
        Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    }

    /// Ids and restarts of all containers of these pods, by names.
    pub fn containers(&self, pods: &[&str]) -> Result<BTreeMap<String, (String, u64)>> {
        let mut found = BTreeMap::new();
        for name in pods {
            let pod = self.ready(name)?;
            for container in pod.containers() {
                let key = format!("{name}/{}", container.name());
                found.insert(key, (container.id().to_owned(), container.restarts()));
            }
        }
        Ok(found)
    }

    /// As if the host had lost its power: processes, mounts, cgroups, interfaces and everything on
    /// tmpfs go at once, and only then do daemon and kubelet start.
    pub fn reboot(&mut self) -> Result<()> {
        self.stop_kubelet()?;
        self.kill_daemon()?;
        power::cut(&self.place, &self.parent, &self.registry)?;
        power::lose_state(&self.place)?;
        self.start_daemon()?;
        self.start_kubelet(Settings::default())
    }

    /// Without manifests: nothing may run any more, and nothing may be left of what ran.
    pub fn end(mut self) -> Result<()> {
        retry(Duration::from_secs(60), || self.nothing_runs())?;
        let volumes = process::directory(&self.place);
        retry(SOON, || {
            let mounts = self.place.mounts()?;
            let left: Vec<_> = mounts
                .iter()
                .filter(|path| path.starts_with(&volumes) && **path != volumes)
                .collect();
            ensure!(left.is_empty(), "volumes are still mounted: {left:?}");
            Ok(())
        })?;
        self.stop_kubelet()?;
        // It made its own directory a mount point, so that volumes propagate.
        let _was_shared_already = unmount(&volumes, UnmountFlags::DETACH);
        // The kubelet collects dead pods once a minute.
        for pod in self.cri.pods().context("ListPodSandbox")? {
            self.cri.stop_pod(&pod.id).context("StopPodSandbox")?;
            self.cri.remove_pod(&pod.id).context("RemovePodSandbox")?;
        }
        drop(self.containerd.take());
        if let Some(daemon) = self.daemon.take() {
            daemon.stop()?;
        }
        let registry = i32::try_from(self.registry.pid())?;
        retry(SOON, || {
            let mut left = self.place.processes()?;
            left.retain(|pid| *pid != registry);
            ensure!(left.is_empty(), "processes {left:?} are left");
            let mounts = self.place.mounts()?;
            ensure!(mounts.is_empty(), "mounts are left: {mounts:?}");
            Ok(())
        })?;
        self.place.bridge().remove()
    }

    fn nothing_runs(&mut self) -> Result<()> {
        use berth_api::cri::v1::{ContainerState, PodSandboxState};
        let pods = self.cri.pods().context("ListPodSandbox")?;
        let ready = pods
            .iter()
            .find(|pod| pod.state() == PodSandboxState::SandboxReady);
        let containers = self.cri.containers().context("ListContainers")?;
        let running = containers
            .iter()
            .find(|container| container.state() == ContainerState::ContainerRunning);
        match (ready, running) {
            (None, None) => Ok(()),
            (ready, running) => bail!("still there: {ready:?}, {running:?}"),
        }
    }
}

/// A directory of the host that pods write into.
pub fn evidence(place: &Place) -> PathBuf {
    place.scratch().join("evidence")
}

/// Where the kubelet finds its runtime.
fn socket(place: &Place, containerd: Option<&Containerd>) -> PathBuf {
    containerd.map_or_else(|| place.socket(), Containerd::socket)
}
