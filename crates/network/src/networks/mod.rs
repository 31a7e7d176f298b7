//! Networks that containers join: the default bridge, bridges that users define, the host's own,
//! and none.
//!
//! ```text
//!   create / remove / find / list          attach / detach / release
//!               definition, options, ipam ── state ── publish (the host's ports)
//!                                store        │
//!                             standing (bridges, the table), cable, dns
//!
//!   plugged (networks), outlet (endpoints), moved (interfaces)
//!      what plugins are asked for, each step in ledger first; settle gives it back
//! ```
//!
//! A definition outlives the boot, a container's place does not. What is asked for is decided in
//! `state` from memory, written down by `store`, and then made true; what failed is undone by the
//! same steps that undo what succeeded.

mod cable;
mod claims;
mod config;
mod connect;
mod definition;
mod dns;
mod forwards;
mod ipam;
mod ledger;
mod member;
mod moved;
mod names;
mod options;
mod outlet;
mod plugged;
mod publish;
mod settle;
mod standing;
mod state;
mod store;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_names::{ContainerId, EndpointId, NetworkId};
use parking_lot::Mutex;

pub use config::NetworksConfig;
pub use definition::{
    BRIDGE, HOST, IpamConfig, NONE, NetworkDefinition, NetworkDriver, NetworkSubnet, NewNetwork,
};
pub use ipam::AddressPool;
pub use member::{
    Endpoint, EndpointAddress, EndpointRequest, HostPort, MacAddress, MacError, Member, Membership,
    Plug, PlugRoute, PortRequest, PublishedPort,
};

use self::claims::{Claim, Claims};
use self::definition::NewNetwork as Wanted;
use self::forwards::Forwarder;
use self::ledger::Ledger;
use self::standing::{Description, Standing};
use self::state::{Net, State};
use self::store::Store;
use crate::bridge::device;
use crate::error::{Error, Result};
use crate::subnet::Subnet;
use crate::threads;

/// All networks of a daemon. A handle: clones share everything.
#[derive(Clone)]
pub struct Networks {
    inner: Arc<Inner>,
}

struct Inner {
    config: NetworksConfig,
    store: Store,
    ledger: Ledger,
    state: Mutex<State>,
    standing: Standing,
    claims: Claims,
    /// What keeps others off the containers' published ports.
    held: Mutex<HashMap<ContainerId, Vec<Claim>>>,
    /// What the containers' resolvers answer from, and they themselves.
    resolving: Arc<dns::Shared>,
    resolvers: Mutex<HashMap<ContainerId, dns::Server>>,
    runtime: tokio::runtime::Handle,
    /// One network is made or removed at a time: each looks at what the others have.
    changing: tokio::sync::Mutex<()>,
    /// One operation at a time on one container.
    turns: Mutex<HashMap<ContainerId, Weak<tokio::sync::Mutex<()>>>>,
}

/// A network that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub id: NetworkId,
    /// What its maker should know; empty most often.
    pub warnings: Vec<String>,
}

/// A network and who is on it.
#[derive(Debug, Clone)]
pub struct NetworkInfo {
    pub definition: Arc<NetworkDefinition>,
    pub endpoints: Vec<(Member, Endpoint)>,
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub struct Released {
    pub released: Vec<ContainerId>,
    /// These keep their records, and are tried again by the next one.
    pub failed: Vec<(ContainerId, Error)>,
}

impl Networks {
    /// Reads what there is, and makes the predefined networks' definitions if need be. Must be
    /// called in the host's network namespace, which is served for good. Blocking. Nothing is
    /// touched on the host unless containers of an earlier daemon are there: their networks are then
    /// made whole. The caller's runtime serves their resolvers.
    pub fn open(config: NetworksConfig) -> Result<Self> {
        options::check_interface("bridge", &config.bridge)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| Error::NotReady {
            reason: error.to_string(),
        })?;
        let claims = match config.forwards.clone() {
            None => Claims::Sockets,
            Some(socket) => Claims::Forwards(Forwarder::open(socket)?),
        };
        let inner = Arc::new(Inner {
            store: Store::open(&config.record_dir, &config.state_dir)?,
            ledger: Ledger::open(&config.record_dir)?,
            state: Mutex::new(State {
                next_port: *publish::ephemeral().start(),
                ..State::default()
            }),
            standing: Standing::open(&config.bridge)?,
            claims,
            held: Mutex::default(),
            resolving: Arc::new(dns::Shared::new(config.resolv_conf.clone())),
            resolvers: Mutex::default(),
            runtime,
            changing: tokio::sync::Mutex::default(),
            turns: Mutex::default(),
            config,
        });
        inner.load()?;
        inner.predefine()?;
        inner.resume()?;
        inner.settle_orphans();
        Ok(Self { inner })
    }

    /// All networks, the oldest first.
    pub fn list(&self) -> Vec<NetworkInfo> {
        let state = self.inner.state.lock();
        let mut all: Vec<_> = state.networks.values().map(|n| info(&state, n)).collect();
        all.sort_by_key(|info| (info.definition.created, info.definition.name.clone()));
        all
    }

    /// By whole id, by name, or by the beginning of an id that no other network has.
    pub fn find(&self, reference: &str) -> Result<NetworkInfo> {
        let state = self.inner.state.lock();
        state.find(reference).map(|net| info(&state, net))
    }

    /// Makes a network: its definition is on the disk and its bridge stands when this returns.
    pub async fn create(&self, wanted: NewNetwork) -> Result<Created> {
        let inner = Arc::clone(&self.inner);
        joined(tokio::spawn(async move {
            let worker = Arc::clone(&inner);
            if wanted.is_plugged() {
                // Others do not wait for its plugins.
                let create = move || worker.create_plugged(&wanted);
                return threads::run_async("berth-network", create).await;
            }
            let _alone = inner.changing.lock().await;
            threads::run_async("berth-network", move || worker.create(&wanted)).await
        }))
        .await
    }

    /// Removes a network that nobody is on; says which. With `force` one is forgotten that its plugin
    /// does not let go.
    pub async fn remove(&self, reference: &str, force: bool) -> Result<Arc<NetworkDefinition>> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
        joined(tokio::spawn(async move {
            let worker = Arc::clone(&inner);
            let found = Arc::clone(&inner.state.lock().find(&reference)?.definition);
            if found.plugin().is_some() || found.ipam_plugin().is_some() {
                let remove = move || worker.remove_plugged(&reference, force);
                return threads::run_async("berth-network", remove).await;
            }
            let _alone = inner.changing.lock().await;
            threads::run_async("berth-network", move || worker.remove(&reference)).await
        }))
        .await
    }

    /// Connects a container to a network: before its process starts, or while it runs. On failure
    /// nothing of it stays. Returns all of the container's networks with the new one the last.
    ///
    /// Dropping the future does not stop it: `detach` or `release` afterwards, which wait for it.
    pub async fn attach(
        &self,
        member: Member,
        network: &str,
        request: EndpointRequest,
    ) -> Result<Membership> {
        let network = network.to_owned();
        self.in_turn(&member.id.clone(), "berth-attach", move |inner| {
            inner.attach(&member, &network, request)
        })
        .await
    }

    /// Disconnects a running container from one network.
    pub async fn detach(&self, container: &ContainerId, network: &str) -> Result<()> {
        let (id, network) = (container.clone(), network.to_owned());
        self.in_turn(container, "berth-detach", move |inner| {
            inner.detach(&id, &network)
        })
        .await
    }

    /// Releases all that a container has, after its end: its interfaces go with its namespace. One
    /// that has nothing is no failure. On failure its record stays: call again.
    pub async fn release(&self, container: &ContainerId) -> Result<()> {
        let id = container.clone();
        self.in_turn(container, "berth-release", move |inner| {
            inner.release(&id, settle::WAIT)
        })
        .await
    }

    /// A container's networks; `None` while it has none.
    pub fn of(&self, container: &ContainerId) -> Option<Membership> {
        self.inner.state.lock().members.get(container).cloned()
    }

    /// Releases what containers hold that are not among the `live`: after a start.
    pub async fn reconcile(&self, live: &HashSet<ContainerId>) -> Released {
        let known: Vec<_> = self.inner.state.lock().members.keys().cloned().collect();
        let mut done = Released::default();
        for container in known.into_iter().filter(|id| !live.contains(id)) {
            let id = container.clone();
            // Plugins are not waited for: they may be containers that start later.
            let released = self.in_turn(&container, "berth-release", move |inner| {
                inner.release(&id, std::time::Duration::ZERO)
            });
            match released.await {
                Ok(()) => done.released.push(container),
                Err(error) => done.failed.push((container, error)),
            }
        }
        done
    }

    /// Restores what others took: bridges, the table. Meant to be called every few seconds. Says
    /// whether anything was amiss.
    pub async fn heal(&self) -> Result<bool> {
        let inner = Arc::clone(&self.inner);
        threads::run_async("berth-heal", move || inner.heal()).await
    }

    /// Removes bridges and table from the host; definitions stay. Connected containers lose their
    /// networks.
    pub async fn dismantle(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        threads::run_async("berth-dismantle", move || inner.dismantle()).await
    }

    /// Runs `task` on a thread of its own: it blocks, and may change its namespace.
    async fn in_turn<T: Send + 'static>(
        &self,
        container: &ContainerId,
        name: &'static str,
        task: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (inner, turn) = (Arc::clone(&self.inner), self.turn(container));
        joined(tokio::spawn(async move {
            let _turn = turn.lock().await;
            let inner = Arc::clone(&inner);
            threads::run_async(name, move || task(&inner)).await
        }))
        .await
    }

    fn turn(&self, container: &ContainerId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.inner.turns.lock();
        if let Some(turn) = turns.get(container).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(container.clone(), Arc::downgrade(&turn));
        turn
    }
}

async fn joined<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await.unwrap_or(Err(Error::TaskLost {
        task: "berth-network",
    }))
}

fn info(state: &State, net: &Net) -> NetworkInfo {
    let endpoints = state.on(&net.definition.id);
    NetworkInfo {
        definition: Arc::clone(&net.definition),
        endpoints: endpoints.map(|(m, e)| (m.clone(), e.clone())).collect(),
    }
}

impl Inner {
    fn load(&self) -> Result<()> {
        let mut state = self.state.lock();
        for definition in self.store.networks()? {
            let name = definition.name.clone();
            match Net::new(definition) {
                Ok(net) => _ = state.networks.insert(net.definition.id.clone(), net),
                Err(error) => tracing::warn!(name, ?error, "a network is not served"),
            }
        }
        Ok(())
    }

    fn predefine(&self) -> Result<()> {
        for (name, driver) in [
            (BRIDGE, NetworkDriver::Bridge),
            (HOST, NetworkDriver::Host),
            (NONE, NetworkDriver::Null),
        ] {
            let present = self.state.lock().find(name).is_ok();
            if !present {
                let definition = self.predefined(name, driver)?;
                self.store.put_network(&definition)?;
                self.admit(definition)?;
            }
        }
        Ok(())
    }

    fn predefined(&self, name: &str, driver: NetworkDriver) -> Result<NetworkDefinition> {
        let bridge = driver == NetworkDriver::Bridge;
        let mut definition = blank(Wanted::named(name), driver)?;
        if bridge {
            definition.interface = self.config.bridge.clone();
            let routed = self.routed(&definition.interface)?;
            let occupied = self.state.lock().occupied(routed);
            let subnet = ipam::next_free(true, &self.config.pools, &occupied)?;
            definition.subnets.push(subnet);
        }
        Ok(definition)
    }

    /// Gives the default network another subnet if its own has come to be routed elsewhere since it
    /// was chosen: a node moves, and daemons side by side choose alike. Not while it is in use.
    fn choose_again(&self, reference: &str) -> Result<()> {
        let present = Arc::clone(&self.state.lock().find(reference)?.definition);
        let unused = |state: &State| state.on(&present.id).next().is_none();
        if present.name != BRIDGE
            || self.standing.stands(&present.id)
            || !unused(&self.state.lock())
        {
            return Ok(());
        }
        let routed = self.routed(&present.interface)?;
        let collides = |subnet: &NetworkSubnet| routed.iter().any(|r| r.overlaps(&subnet.subnet));
        if !present.subnets.iter().any(collides) {
            return Ok(());
        }
        let mut occupied = self.state.lock().occupied(routed);
        occupied.networks.retain(|(_, name)| name != BRIDGE);
        let mut definition = NetworkDefinition::clone(&present);
        definition.subnets = vec![ipam::next_free(true, &self.config.pools, &occupied)?];
        self.store.put_network(&definition)?;
        let net = Net::new(definition)?;
        let mut state = self.state.lock();
        if unused(&state) {
            state.networks.insert(net.definition.id.clone(), net);
        }
        Ok(())
    }

    fn create(&self, wanted: &NewNetwork) -> Result<Created> {
        wanted.check()?;
        let mut definition = blank(wanted.clone(), NetworkDriver::Bridge)?;
        self.give_interface(&mut definition)?;
        self.check_unique(&definition)?;
        let routed = self.routed(&definition.interface)?;
        let occupied = self.state.lock().occupied(routed);
        let (subnets, warnings) = ipam::plan(wanted, &self.pools(wanted)?, &occupied)?;
        definition.subnets = subnets;
        let id = definition.id.clone();
        self.stand(definition)?;
        Ok(Created { id, warnings })
    }

    /// What a bridge is called, and whether it is there already.
    fn give_interface(&self, definition: &mut NetworkDefinition) -> Result<()> {
        let options = options::BridgeOptions::parse(&definition.options)?;
        definition.interface = options
            .name
            .unwrap_or_else(|| format!("br-{}", berth_names::short(definition.id.as_str())));
        let name = definition.interface.as_str();
        definition.adopted = device::find(name, &mut self.standing.route.lock())?.is_some();
        Ok(())
    }

    /// Writes a bridge network down and makes it.
    fn stand(&self, definition: NetworkDefinition) -> Result<()> {
        let id = definition.id.clone();
        self.store.put_network(&definition)?;
        let stood = self
            .admit(definition)
            .and_then(|description| self.standing.bridge(&description));
        if stood.is_err()
            && let Err(left) = self.remove(id.as_str())
        {
            tracing::warn!(?left, "a network that failed is not undone yet");
        }
        stood.map(drop)
    }

    fn check_unique(&self, definition: &NetworkDefinition) -> Result<()> {
        let state = self.state.lock();
        let exists = || Error::NetworkExists {
            name: definition.name.clone(),
        };
        if state
            .making
            .values()
            .any(|(name, _)| *name == definition.name)
        {
            return Err(exists());
        }
        for net in state.networks.values() {
            if net.name() == definition.name {
                return Err(exists());
            }
            let interface = definition.interface.as_str();
            if !interface.is_empty() && net.definition.interface == interface {
                return Err(Error::NetworkInvalid {
                    reason: format!(
                        "interface {} is network {}'s",
                        definition.interface,
                        net.name()
                    ),
                });
            }
        }
        Ok(())
    }

    /// Default pools, with the daemon's own of IPv6 where that is needed.
    fn pools(&self, wanted: &NewNetwork) -> Result<Vec<AddressPool>> {
        let mut pools = self.config.pools.clone();
        if wanted.ipv6 {
            let base = self.store.unique_local(random)?;
            pools.push(AddressPool { base, size: 64 });
        }
        Ok(pools)
    }

    /// What the host routes, but for our bridges and the interface called `own`.
    fn routed(&self, own: &str) -> Result<Vec<Subnet>> {
        let mut names: HashSet<String> = HashSet::from([own.to_owned()]);
        let state = self.state.lock();
        names.extend(
            state
                .networks
                .values()
                .map(|n| n.definition.interface.clone()),
        );
        drop(state);
        let mut route = self.standing.route.lock();
        let refused = |source| device::refused("list routes and addresses", own, source);
        let links = route.links().map_err(refused)?;
        let ours: HashSet<u32> = (links.iter())
            .filter(|link| names.contains(&link.name))
            .map(|link| link.index)
            .collect();
        device::occupied(|index| ours.contains(&index), &mut route).map_err(refused)
    }

    fn admit(&self, definition: NetworkDefinition) -> Result<Description> {
        let net = Net::new(definition)?;
        let description = Description::of(&net);
        let mut state = self.state.lock();
        state.networks.insert(net.definition.id.clone(), net);
        Ok(description)
    }

    fn remove(&self, reference: &str) -> Result<Arc<NetworkDefinition>> {
        let net = {
            let mut state = self.state.lock();
            let definition = Arc::clone(&state.find(reference)?.definition);
            removable(&state, &definition)?;
            match state.networks.remove(&definition.id) {
                Some(net) => net,
                None => return Ok(definition),
            }
        };
        let definition = Arc::clone(&net.definition);
        let removed = self
            .standing
            .remove(&Description::of(&net))
            .and_then(|()| self.store.remove_network(&definition.id));
        if let Err(error) = removed {
            let mut state = self.state.lock();
            state.networks.insert(definition.id.clone(), net);
            return Err(error);
        }
        Ok(definition)
    }

    fn dismantle(&self) -> Result<()> {
        let state = self.state.lock();
        let all: Vec<_> = state.networks.values().map(Description::of).collect();
        drop(state);
        let bridges = all.iter().filter(|net| !net.interface.is_empty());
        let mut first = None;
        for failed in bridges.filter_map(|net| self.standing.remove(net).err()) {
            first.get_or_insert(failed);
        }
        first.map_or_else(|| self.standing.dismantle(), Err)
    }
}

fn removable(state: &State, definition: &NetworkDefinition) -> Result<()> {
    if definition.predefined() {
        return Err(Error::NetworkPermanent {
            name: definition.name.clone(),
        });
    }
    let names: Vec<_> = state
        .on(&definition.id)
        .map(|(member, _)| {
            let id = berth_names::short(member.id.as_str());
            format!("name:{:?} id:{id:?}", member.name)
        })
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::NetworkInUse {
        name: definition.name.clone(),
        id: definition.id.clone(),
        endpoints: names.join(", "),
    })
}

/// A definition without what the network has to be given yet.
fn blank(wanted: Wanted, driver: NetworkDriver) -> Result<NetworkDefinition> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(NetworkDefinition {
        id: NetworkId::from_random(random()?),
        name: wanted.name,
        driver,
        created: since.map_or(0, |since| since.as_nanos() as u64),
        options: wanted.options,
        ipam_options: wanted.ipam_options,
        subnets: Vec::new(),
        ipv4: wanted.ipv4,
        ipv6: wanted.ipv6,
        internal: wanted.internal,
        attachable: wanted.attachable,
        labels: wanted.labels,
        interface: String::new(),
        adopted: false,
        ipam_driver: wanted.ipam_driver,
        global: false,
    })
}

fn endpoint_id() -> Result<EndpointId> {
    random().map(EndpointId::from_random)
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bits = [0; N];
    rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty()).map_err(|errno| {
        Error::Io {
            operation: "read",
            path: "/dev/urandom".into(),
            source: errno.into(),
        }
    })?;
    Ok(bits)
}
