//! From a configuration to the open rooms, bottom to top.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_build::Builder;
use berth_cgroups::CgroupHost;
use berth_cri::StreamDoor;
use berth_engine::Engine;
use berth_images::Images;
use berth_lifecycle::{Parts, Runtime};
use berth_network::{
    AddressPool, BridgeConfig, Network, NetworkConfig, Networks, NetworksConfig, Subnet,
};
use berth_plugins::Plugins;
use berth_registry::RegistryConfig;
use berth_shim_client::Launcher;
use berth_snapshots::{Overlay, Snapshotter};
use berth_standalone::{Containers, Places};
use berth_streaming::{Server, Urls};
use berth_tls::Tls;
use berth_unpack_worker::{Program, Unpacker};

use crate::config::{CgroupDriver, Config};
use crate::handlers;

/// The open rooms that the doors need.
pub struct House {
    pub runtime: Runtime,
    pub images: Arc<Images>,
    pub network: Network,
    pub networks: Networks,
    pub store: berth_metadata::Meters,
    pub containers: Containers,
    pub builder: Builder,
    pub plugins: Plugins,
}

/// Opens everything and takes over what runs.
pub async fn open(config: &Config) -> Result<House> {
    let plugins = Plugins::new(config.docker.plugins.config());
    let (blocking, shared) = (config.clone(), plugins.clone());
    let (parts, network, networks) = tokio::task::spawn_blocking(move || rooms(&blocking, shared))
        .await
        .context("opening was cut short")??;
    let images = Arc::clone(&parts.images);
    let (store, records) = (parts.store.meters(), parts.store.clone());
    let builds = records.clone();
    let (runtime, recovered) = Runtime::open(lifecycle_config(config)?, parts)
        .await
        .context("cannot take over what was there")?;
    tracing::info!(
        pods = recovered.pods,
        containers = recovered.containers,
        running = recovered.running,
        undone = recovered.undone,
        unreadable = recovered.unreadable,
        "took over what was there"
    );
    let places = Places {
        root: config.root.join("standalone"),
        plugins: plugins.clone(),
    };
    let containers = Containers::open(
        runtime.clone(),
        Arc::clone(&images),
        networks.clone(),
        records,
        places,
    )
    .await
    .context("cannot take over the containers that stand alone")?;
    let builder = Builder::open(
        runtime.clone(),
        Arc::clone(&images),
        networks.clone(),
        builds,
        (config.root.join("build"), config.state.join("build")),
        berth_build::Keep {
            bytes: config.build.cache_max_bytes,
            age: config.build.cache_max_age_secs,
        },
    )
    .context("cannot open what builds have left")?;
    Ok(House {
        plugins,
        builder,
        containers,
        runtime,
        images,
        network,
        networks,
        store,
    })
}

fn rooms(config: &Config, plugins: Plugins) -> Result<(Parts, Network, Networks)> {
    private_dir(&config.root)?;
    private_dir(&config.state)?;
    for below in ["pods", "containers", "network"] {
        private_dir(&config.state.join(below))?;
    }
    let store = berth_metadata::Options::new(&config.root.join("meta"))
        .on_fatal(|error| {
            // What was acknowledged is on disk; nothing more can be. Containers go on.
            eprintln!("berthd: the metadata cannot be written: {error}");
            std::process::exit(70);
        })
        .open()
        .context("cannot open the metadata")?;
    let content = berth_content::Store::open(&config.root.join("content"))
        .context("cannot open the content store")?;
    let snapshots = snapshots(config)?;
    let registry = berth_registry::Client::new(RegistryConfig {
        hosts_dir: Some(config.hosts_dir.clone()),
        progress_timeout: Duration::from_secs(config.pull.progress_timeout_secs),
        retries: config.pull.retries,
        ..RegistryConfig::default()
    })
    .context("cannot set up the registry client")?;
    let unpack = Program::open(&config.unpack)
        .with_context(|| format!("the program {:?} cannot be used", config.unpack))?;
    let images = Images::open(
        content,
        Arc::clone(&snapshots),
        registry,
        store.clone(),
        berth_images::Config {
            layers_at_once: config.pull.layers_at_once,
            unpacker: Unpacker::Apart(unpack),
            ..berth_images::Config::default()
        },
    )
    .context("cannot read the images")?;
    let network = Network::new(network_config(config)?).context("cannot open the network")?;
    let launcher = Launcher::new(&config.shim)
        .with_context(|| format!("the shim {:?} cannot be used", config.shim))?;
    let cgroups = CgroupHost::detect().context("cannot use this host's cgroups")?;
    let parts = Parts {
        images,
        snapshots,
        network: network.clone(),
        launcher,
        cgroups,
        store,
    };
    let networks = NetworksConfig {
        plugins,
        ..networks_config(config)?
    };
    let networks =
        Networks::open(networks).context("cannot open the networks of Docker's containers")?;
    Ok((parts, network, networks))
}

fn snapshots(config: &Config) -> Result<Arc<dyn Snapshotter>> {
    let overlay =
        Overlay::open(&config.root.join("snapshots")).context("cannot open the snapshots")?;
    if config.snapshots.limit().is_some() {
        overlay
            .can_limit()
            .context("snapshots.writable-max-bytes is set, and nothing would keep to it")?;
    }
    for key in &overlay.recovery().unlimited_snapshots {
        tracing::warn!(id = key, "the limit of this container's layer is not kept");
    }
    overlay
        .purge_trash()
        .context("cannot remove what was left to delete")?;
    Ok(Arc::new(overlay))
}

/// The server of exec, attach and port-forward, listening.
pub async fn streaming(config: &Config, house: &House) -> Result<(Server, Urls)> {
    let streaming = &config.streaming;
    let tls = if streaming.tls_cert.as_os_str().is_empty() {
        None
    } else {
        let tls = Tls::open(&streaming.tls_cert, &streaming.tls_key);
        Some(tls.context("streaming.tls-cert and streaming.tls-key cannot be used")?)
    };
    if tls.is_none() && !streaming.address.is_loopback() {
        tracing::warn!(
            address = %streaming.address,
            "streams are served without TLS beyond this host: set streaming.tls-cert"
        );
    }
    let secs = Duration::from_secs;
    let config = berth_streaming::Config {
        address: (streaming.address, streaming.port).into(),
        advertise: streaming.advertise.clone(),
        tls,
        idle: secs(streaming.idle_timeout_secs),
        total: secs(streaming.total_timeout_secs),
        creation: secs(streaming.creation_timeout_secs),
        token_lifetime: secs(streaming.token_lifetime_secs),
        tokens: streaming.max_tokens,
        connections: streaming.max_connections,
    };
    let backend = Arc::new(StreamDoor::new(house.runtime.clone()));
    Server::bind(config, backend)
        .await
        .context("cannot serve exec, attach and port-forward")
}

/// What the Docker door works with.
pub fn engine(config: &Config, house: &House) -> Arc<Engine> {
    let own = "berth".to_owned();
    let runtimes = std::iter::once(own).chain(config.runtimes.keys().cloned());
    let facts = berth_engine::Facts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        root: config.root.clone(),
        cdi_dirs: config.cdi_dirs.clone(),
        runtimes: runtimes.collect(),
        default_runtime: config.default_runtime.clone(),
        experimental: config.docker.experimental,
        plugins: house.plugins.clone(),
    };
    Engine::new(
        house.runtime.clone(),
        Arc::clone(&house.images),
        house.network.clone(),
        house.networks.clone(),
        house.containers.clone(),
        house.builder.clone(),
        facts,
    )
}

/// What the configuration asks for and the host can do.
fn cgroup_driver(config: &Config) -> Result<berth_lifecycle::CgroupDriver> {
    let host = CgroupHost::detect().context("cannot use this host's cgroups")?;
    let driver = match (config.cgroup_driver, host.has_systemd()) {
        (CgroupDriver::Cgroupfs, _) | (CgroupDriver::Auto, false) => {
            berth_lifecycle::CgroupDriver::Cgroupfs
        }
        (CgroupDriver::Systemd | CgroupDriver::Auto, true) => {
            berth_lifecycle::CgroupDriver::Systemd
        }
        (CgroupDriver::Systemd, false) => bail!(
            "cgroup-driver \"systemd\" needs systemd as PID 1 and cgroup v2 alone: \
             set it to \"cgroupfs\" or \"auto\""
        ),
    };
    tracing::info!(?driver, "cgroups");
    Ok(driver)
}

fn lifecycle_config(config: &Config) -> Result<berth_lifecycle::Config> {
    Ok(berth_lifecycle::Config {
        state_dir: config.state.clone(),
        cgroup_parent: config.cgroup_parent.trim_end_matches('/').to_owned(),
        cgroup_driver: cgroup_driver(config)?,
        pod_init: config.pod_init.clone(),
        oom_score_floor: oom_score_floor(),
        capabilities: berth_lifecycle::capabilities_to_give(),
        confinement: berth_lifecycle::Confinement::find(),
        handlers: handlers::from(config)?,
        cdi_dirs: config.cdi_dirs.clone(),
        criu: config.criu.clone(),
        restore_dir: config.root.join("restore"),
        layer_limit: config.snapshots.limit(),
    })
}

/// Without CAP_SYS_RESOURCE no process may have a lower score than this one; handing out a lower
/// one would fail every start.
fn oom_score_floor() -> i32 {
    let own = fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    if may_lower_scores() {
        return -1000;
    }
    tracing::warn!(
        floor = own,
        "CAP_SYS_RESOURCE is missing: lower OOM scores are raised to this"
    );
    own
}

/// The kernel asks for the capability on the host, whatever a user namespace gives.
fn may_lower_scores() -> bool {
    if berth_kernel::in_user_namespace() {
        return false;
    }
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits & (1 << CAP_SYS_RESOURCE) != 0)
}

fn network_config(config: &Config) -> Result<NetworkConfig> {
    let subnets = config
        .bridge
        .subnets
        .iter()
        .map(|text| {
            text.parse::<Subnet>()
                .with_context(|| format!("bridge.subnets: {text:?} is no subnet"))
        })
        .collect::<Result<Vec<_>>>()?;
    let bridge = BridgeConfig {
        name: config.bridge.name.clone(),
        subnets,
        ..BridgeConfig::default()
    };
    Ok(NetworkConfig {
        bridge: config.bridge.enabled.then_some(bridge),
        conf_template: Some(config.cni_conf_template.clone())
            .filter(|path| !path.as_os_str().is_empty()),
        ..NetworkConfig::new(
            &config.cni_conf_dir,
            &config.cni_bin_dir,
            config.state.join("network"),
        )
    })
}

fn networks_config(config: &Config) -> Result<NetworksConfig> {
    let pools = config.docker.address_pools.iter().map(|pool| {
        let wrong = || {
            format!(
                "docker.address-pools: {:?} cannot be cut into subnets of {} bits",
                pool.base, pool.size
            )
        };
        let base = pool.base.parse::<Subnet>().with_context(wrong)?;
        let most = if base.is_ipv4() { 30 } else { 126 };
        if !(base.prefix()..=most).contains(&pool.size) {
            bail!(wrong());
        }
        Ok(AddressPool {
            base,
            size: pool.size,
        })
    });
    let mut found =
        NetworksConfig::new(config.root.join("networks"), config.state.join("networks"));
    found.bridge = config.docker_bridge();
    found.forwards = config.forwards.clone();
    let pools = pools.collect::<Result<Vec<_>>>()?;
    if !pools.is_empty() {
        found.pools = pools;
    }
    Ok(found)
}

/// Others may pass through, to what a container's user must reach, but list nothing.
fn private_dir(path: &Path) -> Result<()> {
    // The mode is set each time: that a directory turned read-only shows before anything is done.
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o711)));
    match made {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => Err(error).with_context(|| {
            format!(
                "{path} is read-only, and the daemon has to write there; containers go on without \
                 it. Make it writable (findmnt --target {path} says what is mounted there, \
                 mount -o remount,rw changes it; where a disk failed, the kernel's log says why) and \
                 start the daemon again",
                path = path.display()
            )
        }),
        made => made.with_context(|| format!("cannot create {path:?}")),
    }
}
