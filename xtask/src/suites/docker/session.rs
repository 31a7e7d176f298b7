//! What the steps share: registries with an image, a daemon, and the CLI.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_testkit::image::{Format, Image, Layer, PackedLayer, Recipe};

use crate::command::which;
use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::suites::fixtures::{busybox, marker, pack, users};
use crate::workspace;

use super::client::Docker;

/// The local name of the image that steps with containers run.
pub const IMAGE: &str = "shop/app:1";
pub const REPOSITORY: &str = "crew/busybox";
const SERVICES: &str = "crew/services";
pub const USER: &str = "crew";
pub const PASSWORD: &str = "between-us";

pub struct Session {
    pub docker: Docker,
    /// Two layers; `one` and `two` at the open registry.
    pub image: Image,
    /// The first layer alone, as Docker's own tools push it: `small`.
    pub small: Image,
    pub registry: Registry,
    pub locked_registry: Registry,
    daemon: Option<Daemon>,
    daemon_log: PathBuf,
    // Last: everything above works in it.
    pub place: Place,
}

impl Session {
    pub fn begin() -> Result<Self> {
        let program = which("docker").context("docker is not installed")?;
        Self::begin_with(program, "docker")
    }

    /// With another client of that door. Its name is that of the daemon's log.
    pub fn begin_with(program: PathBuf, name: &str) -> Result<Self> {
        let place = Place::new()?;
        let directory = |name: &str| -> Result<PathBuf> {
            let directory = place.scratch().join(name);
            fs::create_dir(&directory).with_context(|| format!("creating {name}"))?;
            Ok(directory)
        };
        let registry = Registry::start(&directory("registry")?)?;
        let locked_registry = Registry::start_with_user(&directory("locked")?, USER, PASSWORD)?;
        let base = pack(&busybox()?)?;
        let image = Recipe::new()
            .layer(base.clone())
            .layer(marker("public")?)
            .cmd(&["sh"])
            .env(&["PATH=/usr/bin:/bin", "FROM_IMAGE=yes"])
            .labels(&[("tier", "front")])
            .exposed_ports(&["80/tcp"])
            .build()?;
        let crew = users(
            Layer::new(),
            "cook:x:1005:1006::/:\n",
            "cooks:x:1006:\nbar:x:1007:\n",
        );
        let checked = Recipe::new()
            .layer(base.clone())
            .layer(pack(&crew)?)
            .cmd(&["sh"])
            .healthcheck(&["true"], Duration::from_millis(100))
            .build()?;
        let small = Recipe::new()
            .format(Format::DockerSchema2)
            .layer(base.clone())
            .cmd(&["sh"])
            .build()?;
        let remote = registry.remote();
        remote.push(&image, REPOSITORY, &["one", "two"])?;
        remote.push(&small, REPOSITORY, &["small"])?;
        remote.push(&checked, REPOSITORY, &["checked"])?;
        remote.push(&services(base)?, SERVICES, &["one"])?;

        let daemon_log = workspace::logs()?.join(format!("{name}-berthd.log"));
        let _fresh = fs::remove_file(&daemon_log);
        let daemon = Daemon::start(&place, &daemon_log)?;
        let docker = Docker {
            program,
            socket: place.socket().with_file_name("docker.sock"),
            config: directory("docker-config")?,
        };
        Ok(Self {
            docker,
            image,
            small,
            registry,
            locked_registry,
            daemon: Some(daemon),
            daemon_log,
            place,
        })
    }

    pub fn daemon_log(&self) -> &Path {
        &self.daemon_log
    }

    pub fn daemon_pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("no daemon runs")?.pid())
    }

    /// `127.0.0.1:port/crew/busybox` and what is appended.
    pub fn reference(&self, suffix: &str) -> String {
        format!("{}/{REPOSITORY}{suffix}", self.registry.address())
    }

    /// An image with programs that serve.
    pub fn services(&self) -> String {
        format!("{}/{SERVICES}:one", self.registry.address())
    }

    pub fn locked_reference(&self, rest: &str) -> String {
        format!("{}/{rest}", self.locked_registry.address())
    }

    /// The id that people see.
    pub fn short_id(image: &Image) -> String {
        image.config_digest.hex().chars().take(12).collect()
    }

    pub fn restart_daemon(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()?;
        self.daemon = Some(Daemon::start(&self.place, &self.daemon_log)?);
        Ok(())
    }

    /// Kills the daemon, and starts another one after `meanwhile`.
    pub fn restart_daemon_after(&mut self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill()?;
        meanwhile()?;
        self.have_daemon()
    }

    /// For steps that come after its end.
    pub fn have_daemon(&mut self) -> Result<()> {
        if self.daemon.is_none() {
            self.daemon = Some(Daemon::start(&self.place, &self.daemon_log)?);
        }
        Ok(())
    }

    /// Removes all containers and networks, such as those of a step that broke off.
    pub fn clear(&self) -> Result<()> {
        for id in self.docker.lines(&["ps", "-aq"])? {
            self.docker.text(&["rm", "-f", &id])?;
        }
        let networks = ["network", "ls", "-q", "--filter", "type=custom"];
        for id in self.docker.lines(&networks)? {
            // Also one whose plugin went with the step.
            let path = format!("/networks/{id}?force=1");
            let answer = self.docker.request("DELETE", &path, &[])?;
            ensure!(
                answer.status == 204,
                "network {id} stays: {}",
                answer.status
            );
        }
        Ok(())
    }

    /// Removes what steps left, and what outlives the daemon as it should. A container or network
    /// that cannot be removed is an error.
    pub fn end(mut self) -> Result<()> {
        self.have_daemon()?;
        self.clear()?;
        self.end_daemon()?;
        // As docker0 it waits for the next daemon, but nobody is on it.
        self.place.bridge().of_docker().remove()
    }

    pub fn end_daemon(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.stop()
    }
}

/// Debian's programs, at the places where it has them.
fn services(base: Arc<PackedLayer>) -> Result<Image> {
    // nginx wants its users to have names.
    let mut programs = users(Layer::new(), "", "");
    for program in [
        "/usr/bin/redis-server",
        "/usr/bin/redis-cli",
        "/usr/bin/socat",
        "/usr/sbin/nginx",
    ] {
        // redis-server is a link to a program that looks at its own name.
        let real = fs::canonicalize(program).with_context(|| format!("looking for {program}"))?;
        programs = programs.program(&real, program)?;
    }
    let recipe = Recipe::new().layer(base).layer(pack(&programs)?);
    let image = recipe
        .env(&["PATH=/usr/bin:/bin:/usr/sbin"])
        .cmd(&["sh"])
        .build();
    image.context("making the image of the services")
}
