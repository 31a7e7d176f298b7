//! What the steps share: registries with an image, a daemon, and the ids of
//! what was made so far.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use berth_testkit::image::{Image, Recipe};
use serde_json::Value;

use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::suites::fixtures::{busybox, marker, pack};
use crate::tools::{self, Tool};
use crate::workspace;

use super::client::Crictl;

pub const REPOSITORY: &str = "crew/busybox";
pub const USER: &str = "crew";
pub const PASSWORD: &str = "between-us";

pub struct Session {
    pub crictl: Crictl,
    pub image: Image,
    /// Only behind the registry with a user.
    pub private_image: Image,
    pub registry: Registry,
    pub locked_registry: Registry,
    pub pod: String,
    pub container: String,
    /// Where the daemon tells its own metrics.
    pub metrics: SocketAddr,
    /// Why checkpoints cannot be tried here.
    pub criu: Result<(), String>,
    daemon: Option<Daemon>,
    daemon_log: PathBuf,
    // Last: everything above works in it.
    pub place: Place,
}

impl Session {
    pub fn begin() -> Result<Self> {
        let place = Place::new()?;
        let start = |name: &str| -> Result<PathBuf> {
            let directory = place.scratch().join(name);
            fs::create_dir(&directory).with_context(|| format!("creating {name}"))?;
            Ok(directory)
        };
        let registry = Registry::start(&start("registry")?)?;
        let locked = start("locked")?;
        let locked_registry = Registry::start_with_user(&locked, USER, PASSWORD)?;

        let base = pack(&busybox()?)?;
        let image = Recipe::new()
            .layer(base.clone())
            .layer(marker("public")?)
            .cmd(&["sh"]);
        let image = image
            .env(&["PATH=/usr/bin:/bin", "FROM_IMAGE=yes"])
            .build()?;
        let private_image = Recipe::new()
            .layer(base)
            .layer(marker("private")?)
            .build()?;
        registry
            .remote()
            .push(&image, REPOSITORY, &["one", "two"])?;
        locked_registry
            .remote()
            .push(&private_image, REPOSITORY, &["one"])?;

        let daemon_log = workspace::logs()?.join("crictl-berthd.log");
        let _fresh = fs::remove_file(&daemon_log);
        let metrics = free_port()?;
        let criu = tools::criu();
        let program = criu
            .as_deref()
            .unwrap_or("/missing/criu".as_ref())
            .display();
        place.configure(&format!(
            "criu = \"{program}\"\n[metrics]\naddress = \"{metrics}\"\n"
        ))?;
        let daemon = Daemon::start(&place, &daemon_log)?;
        let config = place.scratch().join("crictl.yaml");
        fs::write(&config, "").context("writing the configuration of crictl")?;
        let crictl = Crictl {
            program: tools::path(Tool::Crictl)?,
            endpoint: daemon.endpoint(),
            config,
        };
        Ok(Self {
            crictl,
            image,
            private_image,
            registry,
            locked_registry,
            pod: String::new(),
            container: String::new(),
            metrics,
            criu: criu.map(drop),
            daemon: Some(daemon),
            daemon_log,
            place,
        })
    }

    pub fn daemon_log(&self) -> &Path {
        &self.daemon_log
    }

    /// `127.0.0.1:port/crew/busybox` and what is appended.
    pub fn reference(&self, suffix: &str) -> String {
        format!("{}/{REPOSITORY}{suffix}", self.registry.address())
    }

    pub fn private_reference(&self) -> String {
        format!("{}/{REPOSITORY}:one", self.locked_registry.address())
    }

    /// Writes a request for crictl and says where.
    pub fn request(&self, name: &str, request: &Value) -> Result<String> {
        let path = self.place.scratch().join(format!("{name}.json"));
        fs::write(&path, request.to_string())
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path.display().to_string())
    }

    /// Kills the daemon, lets `meanwhile` happen, and starts it anew.
    pub fn restart_daemon(&mut self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()?;
        let meanwhile = meanwhile();
        self.daemon = Some(Daemon::start(&self.place, &self.daemon_log)?);
        meanwhile
    }

    pub fn end_daemon(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.stop()
    }

    /// Processes of this session that are meant to be there.
    pub fn own_processes(&self) -> Vec<u32> {
        let registries = [self.registry.pid(), self.locked_registry.pid()];
        registries
            .into_iter()
            .chain(self.daemon.as_ref().map(Daemon::pid))
            .collect()
    }

    /// What a broken-off run leaves behind.
    pub fn clean_up(&self) {
        if self.daemon.is_some()
            && let Err(error) = self.crictl.output(&["rmp", "--all", "--force"])
        {
            eprintln!("removing pods: {error:#}");
        }
    }
}

/// Free a moment ago.
fn free_port() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("finding a free port")?;
    listener.local_addr().context("finding a free port")
}
