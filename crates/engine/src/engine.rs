use std::path::PathBuf;
use std::sync::Arc;

use berth_build::Builder;
use berth_images::Images;
use berth_lifecycle::Runtime;
use berth_network::{Network, Networks};
use berth_plugins::Plugins;
use berth_standalone::Containers;

use crate::build;
use crate::containers;
use crate::events::Events;

/// What every endpoint gets: the core, and what belongs to this door alone.
pub struct Engine {
    pub runtime: Runtime,
    pub images: Arc<Images>,
    pub network: Network,
    /// The networks that containers of this door join.
    pub networks: Networks,
    pub containers: Containers,
    pub builder: Builder,
    pub(crate) builds: build::Running,
    pub(crate) lending: build::Lending,
    pub(crate) carried: build::Carried,
    pub(crate) events: Events,
    pub facts: Facts,
}

/// What the door shows of the daemon behind it.
#[derive(Debug, Clone)]
pub struct Facts {
    pub version: String,
    /// What survives a reboot.
    pub root: PathBuf,
    /// Directories of CDI files.
    pub cdi_dirs: Vec<PathBuf>,
    /// Runtimes that a container can ask for, and the one that it gets otherwise.
    pub runtimes: Vec<String>,
    pub default_runtime: String,
    /// Parts of the API are served that Docker calls experimental.
    pub experimental: bool,
    /// Programs of others that offer drivers.
    pub plugins: Plugins,
}

impl Engine {
    pub fn new(
        runtime: Runtime,
        images: Arc<Images>,
        network: Network,
        networks: Networks,
        containers: Containers,
        builder: Builder,
        facts: Facts,
    ) -> Arc<Self> {
        let engine = Arc::new(Self {
            runtime,
            images,
            network,
            networks,
            containers,
            builder,
            builds: build::Running::default(),
            lending: build::Lending::default(),
            carried: build::Carried::default(),
            events: Events::default(),
            facts,
        });
        let bus = Arc::downgrade(&engine);
        engine.containers.listen(move |event| {
            if let Some(engine) = bus.upgrade() {
                containers::events::pass_on(event, &engine.events);
            }
        });
        engine
    }
}
