//! What the parts share: a daemon, a client, a registry with two images.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use berth_api::cri::v1::{ContainerConfig, PodSandboxConfig};
use berth_testkit::image::{Image, PackedLayer, Recipe};

use crate::cgroup_parent::CgroupParent;
use crate::cri::{self, Cri};
use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::suites::fixtures::{busybox, marker, pack};
use crate::suites::handlers;
use crate::workspace;

pub const MARKER: &str = "node";
const REPOSITORY: &str = "node/busybox";

pub struct Session {
    pub cri: Cri,
    /// Parent of all cgroups that the pods of the suite have.
    pub parent: CgroupParent,
    /// Has an image with a shell, which is pulled already.
    registry: Registry,
    daemon: Option<Daemon>,
    daemon_log: PathBuf,
    // Last: everything above works in it.
    pub place: Place,
}

impl Session {
    pub fn begin() -> Result<Self> {
        Self::begin_with("node", "")
    }

    /// For the suite of this name, with more in the daemon's configuration.
    pub fn begin_with(suite: &str, configuration: &str) -> Result<Self> {
        Self::begin_in(Place::new()?, suite, configuration)
    }

    pub fn begin_in(place: Place, suite: &str, configuration: &str) -> Result<Self> {
        place.configure(configuration)?;
        handlers::configure(&place)?;
        let registry = Registry::start(&place.scratch())?;
        let base = pack(&busybox()?)?;
        let recipe = Recipe::new()
            .layer(base)
            .layer(marker(MARKER)?)
            .env(&["PATH=/usr/bin:/bin"]);
        let image = recipe.build()?;
        registry.remote().push(&image, REPOSITORY, &["one"])?;

        let daemon_log = workspace::logs()?.join(format!("{suite}-berthd.log"));
        let _fresh = fs::remove_file(&daemon_log);
        let daemon = Daemon::start(&place, &daemon_log)?;
        let cri = Cri::connect(&place.socket())?;
        let mut session = Self {
            cri,
            parent: CgroupParent::new(suite),
            registry,
            daemon: Some(daemon),
            daemon_log,
            place,
        };
        let reference = session.reference(":one");
        session.cri.pull(&reference).context("pulling the image")?;
        Ok(session)
    }

    pub fn daemon_log(&self) -> &Path {
        &self.daemon_log
    }

    pub fn daemon_pid(&self) -> Result<u32> {
        let daemon = self.daemon.as_ref().context("no daemon runs")?;
        Ok(daemon.pid())
    }

    /// The image's name with what is appended, a tag or a digest.
    pub fn reference(&self, suffix: &str) -> String {
        format!("{}/{REPOSITORY}{suffix}", self.registry.address())
    }

    /// Pushes another image and says its name.
    pub fn publish(&self, image: &Image, repository: &str, tag: &str) -> Result<String> {
        self.registry.remote().push(image, repository, &[tag])?;
        Ok(format!("{}/{repository}:{tag}", self.registry.address()))
    }

    /// The layer with the shell.
    pub fn shell(&self) -> Result<Arc<PackedLayer>> {
        pack(&busybox()?)
    }

    pub fn pod(&self, name: &str) -> PodSandboxConfig {
        cri::pod(name, &self.parent.request(), &self.place.pod_logs())
    }

    pub fn container(&self, name: &str, command: &[&str]) -> ContainerConfig {
        cri::container(name, &self.reference(":one"), command)
    }

    pub fn kill_daemon(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()
    }

    /// Starts it anew in the same directories.
    pub fn start_daemon(&mut self) -> Result<()> {
        self.daemon = Some(Daemon::start(&self.place, &self.daemon_log)?);
        self.cri = Cri::connect(&self.place.socket())?;
        Ok(())
    }

    /// Stops and removes the container and then its pod.
    pub fn tear_down(&mut self, pod: &str, container: &str) -> Result<()> {
        self.cri.stop(container, 0).context("StopContainer")?;
        self.cri.remove(container).context("RemoveContainer")?;
        self.remove_pod(pod)
    }

    pub fn remove_pod(&mut self, pod: &str) -> Result<()> {
        self.cri.stop_pod(pod).context("StopPodSandbox")?;
        self.cri.remove_pod(pod).context("RemovePodSandbox")
    }

    /// Starts a daemon where a broken-off part left none.
    pub fn ensure_daemon(&mut self) -> Result<()> {
        match self.daemon {
            Some(_) => Ok(()),
            None => self.start_daemon(),
        }
    }

    /// Ends the daemon; what its network leaves on the host is an error.
    pub fn end(mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.stop()?;
        self.place.bridge().remove()
    }

    /// Removes the pods that a broken-off part left.
    pub fn clean_up(&mut self) {
        for pod in self.cri.pods().unwrap_or_default() {
            if let Err(error) = self.remove_pod(&pod.id) {
                eprintln!("removing pod {}: {error:#}", pod.id);
            }
        }
    }
}
