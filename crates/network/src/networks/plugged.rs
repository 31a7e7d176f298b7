//! Networks of plugins, and networks of ours whose addresses a plugin gives.
//!
//! ```text
//!   create: name ─▶ pools, gateways ─▶ CreateNetwork, or a bridge ─▶ definition
//!   remove: definition ─▶ endpoints that are still held ─▶ DeleteNetwork, or the bridge ─▶ pools
//! ```
//!
//! A definition that is on disk makes a network. What was asked of plugins for one without is given
//! back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use berth_plugins::{
    Cidr, IpamDriver, NetworkDraft, NetworkDriver as Driver, NetworkPool, Patience, PoolRequest,
};
use serde_json::{Map, Value, json};

use super::definition::{IpamConfig, NetworkDefinition, NetworkDriver, NetworkSubnet, NewNetwork};
use super::ledger::{Entry, Step};
use super::settle::WAIT;
use super::state::Net;
use super::{Created, Inner, blank, ipam, removable};
use crate::error::{Error, Result};
use crate::subnet::Subnet;

/// What libnetwork's own address spaces are called.
const LOCAL_SPACE: &str = "LocalDefault";
const GLOBAL_SPACE: &str = "GlobalDefault";

impl Inner {
    pub(super) fn create_plugged(self: &Arc<Self>, wanted: &NewNetwork) -> Result<Created> {
        wanted.check()?;
        let mut definition = blank(wanted.clone(), wanted.driver())?;
        definition.global = self.is_global(&definition)?;
        let warnings = self.reserve(&mut definition, wanted)?;
        self.ledger.begin(Entry {
            network: definition.id.clone(),
            endpoint: None,
            driver: definition.plugin().unwrap_or_default().to_owned(),
            ipam: definition.ipam_plugin().unwrap_or_default().to_owned(),
            steps: Vec::new(),
        });
        let id = definition.id.clone();
        let made = self.make(definition, wanted);
        self.state.lock().making.remove(&id);
        match made {
            Ok(()) => Ok(Created { id, warnings }),
            Err(error) => {
                self.settle_behind(vec![id.to_string()], WAIT);
                Err(error)
            }
        }
    }

    /// Whether the driver is there, and the same on other nodes.
    fn is_global(&self, definition: &NetworkDefinition) -> Result<bool> {
        let Some(driver) = definition.plugin() else {
            return Ok(false);
        };
        let (plugins, name) = (self.config.plugins.clone(), driver.to_owned());
        let asked = self.ask(("create network", &definition.name), async move {
            let driver = Driver::open(&plugins, &name, Patience::Change).await?;
            driver.scope().await
        });
        match asked {
            Err(Error::Plugged { cause, .. })
                if matches!(*cause, berth_plugins::Error::NotFound(_)) =>
            {
                Err(Error::NetworkDriverUnknown {
                    driver: driver.chars().take(64).collect(),
                })
            }
            other => Ok(other? == "global"),
        }
    }

    /// Makes the name the network's, and subnets of our own pools.
    fn reserve(
        &self,
        definition: &mut NetworkDefinition,
        wanted: &NewNetwork,
    ) -> Result<Vec<String>> {
        let _alone = self.changing.blocking_lock();
        if definition.driver == NetworkDriver::Bridge {
            self.give_interface(definition)?;
        }
        self.check_unique(definition)?;
        let mut warnings = Vec::new();
        if definition.gives_addresses() {
            let routed = self.routed(&definition.interface)?;
            let occupied = self.state.lock().occupied(routed);
            (definition.subnets, warnings) = ipam::plan(wanted, &self.pools(wanted)?, &occupied)?;
        }
        let subnets = definition.subnets.iter().map(|s| s.subnet).collect();
        let reserved = (definition.name.clone(), subnets);
        let mut state = self.state.lock();
        state.making.insert(definition.id.clone(), reserved);
        Ok(warnings)
    }

    fn make(&self, mut definition: NetworkDefinition, wanted: &NewNetwork) -> Result<()> {
        let space = match definition.ipam_plugin() {
            Some(_) => self.take_pools(&mut definition, wanted)?,
            None if definition.ipam_driver == "null" => "null".to_owned(),
            None if definition.global => GLOBAL_SPACE.to_owned(),
            None => LOCAL_SPACE.to_owned(),
        };
        let Some(driver) = definition.plugin() else {
            let _alone = self.changing.blocking_lock();
            self.check_free(&definition)?;
            return self.stand(definition);
        };
        let (plugins, name) = (self.config.plugins.clone(), driver.to_owned());
        let draft = draft(&definition, &space);
        let (id, step) = (definition.id.to_string(), Step::Network);
        self.ask_for(
            (&id, step),
            ("create network", &definition.name),
            async move {
                let driver = Driver::open(&plugins, &name, Patience::Change).await?;
                driver.create_network(&draft).await
            },
        )?;
        self.store.put_network(&definition)?;
        self.admit(definition).map(drop)
    }

    /// A bridge leads to no subnet that another network has.
    fn check_free(&self, definition: &NetworkDefinition) -> Result<()> {
        let occupied = self.state.lock().occupied(Vec::new());
        for NetworkSubnet { subnet, .. } in &definition.subnets {
            if let Some(network) = occupied.holder(subnet) {
                return Err(Error::SubnetOverlap {
                    subnet: *subnet,
                    network: network.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Has the plugin give a pool of each family, and says of which address space they are.
    fn take_pools(
        &self,
        definition: &mut NetworkDefinition,
        wanted: &NewNetwork,
    ) -> Result<String> {
        let name = definition.ipam_driver.clone();
        let (plugins, plugin) = (self.config.plugins.clone(), name.clone());
        let global = definition.global;
        let what = ("create network", definition.name.as_str());
        let (driver, space) = self.ask(what, async move {
            let driver = IpamDriver::open(&plugins, &plugin, Patience::Change).await?;
            let space = driver.address_space(global).await?;
            Ok((driver, space))
        })?;
        wanted.ipam.iter().try_for_each(ipam::check_whole)?;
        for v4 in [true, false] {
            if !(if v4 { wanted.ipv4 } else { wanted.ipv6 }) {
                continue;
            }
            let of_family = |config: &&IpamConfig| config.subnet.is_some_and(|s| s.is_ipv4() == v4);
            let config = wanted.ipam.iter().find(of_family).cloned();
            let config = config.unwrap_or_default();
            let request = PoolRequest {
                address_space: space.clone(),
                pool: text(config.subnet),
                sub_pool: text(config.range),
                options: definition.ipam_options.clone(),
                ipv6: !v4,
            };
            let subnet = self.take_pool(definition, &driver, request, config)?;
            definition.subnets.push(subnet);
        }
        Ok(space)
    }

    fn take_pool(
        &self,
        definition: &NetworkDefinition,
        driver: &IpamDriver,
        request: PoolRequest,
        config: IpamConfig,
    ) -> Result<NetworkSubnet> {
        let (id, what) = (
            definition.id.as_str(),
            ("create network", &*definition.name),
        );
        let asked = driver.clone();
        let given = self.ask_for((id, Step::Pool { id: None }), what, async move {
            asked.request_pool(&request).await
        })?;
        let name = Some(given.id.clone());
        self.ledger.answered(id, Step::Pool { id: name })?;
        let nonsense = |text: String| Error::Plugged {
            action: what.0,
            name: what.1.to_owned(),
            cause: Box::new(driver.nonsense("IpamDriver.RequestPool", text)),
        };
        let Cidr { address, prefix } = given.pool;
        let subnet = Subnet::new(address, prefix);
        let subnet = subnet.map_err(|error| nonsense(error.to_string()))?;
        let reserve = |address: Option<IpAddr>, kind: &[(&str, &str)]| {
            let options = kind.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let options: BTreeMap<String, String> = options.collect();
            self.take_address(id, (driver, &given.id), address, options, what)
        };
        let gateway = match (config.gateway, given.gateway) {
            (None, Some(gateway)) => gateway,
            (wanted, _) => {
                let kind = [("RequestAddressType", "com.docker.network.gateway")];
                reserve(wanted, &kind)?.address
            }
        };
        if !subnet.contains(gateway) {
            return Err(nonsense(format!(
                "the gateway {gateway} for the pool {subnet}"
            )));
        }
        for address in config.auxiliary.values() {
            reserve(Some(*address), &[])?;
        }
        Ok(NetworkSubnet {
            subnet,
            range: config.range,
            gateway,
            auxiliary: config.auxiliary,
            chosen: config.subnet.is_some(),
            pool: given.id,
        })
    }

    /// Has the plugin give an address, and writes it down before and after.
    pub(super) fn take_address(
        &self,
        owner: &str,
        (driver, pool): (&IpamDriver, &str),
        address: Option<IpAddr>,
        options: BTreeMap<String, String>,
        what: (&'static str, &str),
    ) -> Result<Cidr> {
        let step = |address| Step::Address {
            pool: pool.to_owned(),
            address,
        };
        let (driver, asked) = (driver.clone(), pool.to_owned());
        let given = self.ask_for((owner, step(address)), what, async move {
            driver.request_address(&asked, address, &options).await
        })?;
        self.ledger.answered(owner, step(Some(given.address)))?;
        Ok(given)
    }

    /// Removes a network that nobody is on. By force also one that its plugin does not let go.
    pub(super) fn remove_plugged(
        self: &Arc<Self>,
        reference: &str,
        force: bool,
    ) -> Result<Arc<NetworkDefinition>> {
        let net = {
            let _alone = self.changing.blocking_lock();
            let mut state = self.state.lock();
            let definition = Arc::clone(&state.find(reference)?.definition);
            removable(&state, &definition)?;
            let Some(net) = state.networks.remove(&definition.id) else {
                return Ok(definition);
            };
            let reserved = (definition.name.clone(), net.subnets());
            state.making.insert(definition.id.clone(), reserved);
            net
        };
        let definition = Arc::clone(&net.definition);
        let removed = self.unmake(&net, force);
        let mut state = self.state.lock();
        state.making.remove(&definition.id);
        match removed {
            Ok(()) => Ok(definition),
            Err(error) => {
                state.networks.insert(definition.id.clone(), net);
                Err(error)
            }
        }
    }

    fn unmake(self: &Arc<Self>, net: &Net, force: bool) -> Result<()> {
        let definition = &*net.definition;
        let (id, name) = (&definition.id, definition.name.as_str());
        for (_, owner) in self
            .orphans()
            .into_iter()
            .filter(|(network, _)| network == id)
        {
            match self.settle(&owner) {
                Err(_) if force => self.ledger.forget(&owner)?,
                other => other.map_err(held(name))?,
            }
        }
        // If this daemon is killed from here on, the next one goes on.
        self.store.remove_network(id)?;
        let gone = match definition.plugin() {
            None => self.standing.remove(&super::Description::of(net)),
            Some(driver) => {
                let (plugins, driver) = (self.config.plugins.clone(), driver.to_owned());
                let network = id.to_string();
                let asked = self.ask(("remove network", name), async move {
                    let driver = Driver::open(&plugins, &driver, Patience::Change).await?;
                    driver.delete_network(&network).await
                });
                asked.map_err(held(name))
            }
        };
        match gone {
            Err(error) if force => {
                tracing::warn!(name, %error, "forgotten, though its plugin has it")
            }
            Err(error) => {
                self.store.put_network(definition)?;
                return Err(error);
            }
            Ok(()) => {}
        }
        let without = |steps: &mut Vec<Step>| steps.retain(|step| *step != Step::Network);
        self.ledger.change(id.as_str(), without)?;
        if force && self.settle(id.as_str()).is_err() {
            return self.ledger.forget(id.as_str());
        }
        self.settle_behind(vec![id.to_string()], WAIT);
        Ok(())
    }
}

/// Says what to do about a plugin that does not let a network go.
fn held(network: &str) -> impl Fn(Error) -> Error + use<> {
    let name = network.to_owned();
    move |error| match error {
        Error::Plugged { cause, .. } => Error::NetworkHeld {
            name: name.clone(),
            cause,
        },
        other => other,
    }
}

fn text(subnet: Option<Subnet>) -> String {
    subnet.map_or_else(String::new, |subnet| subnet.to_string())
}

/// A network as its driver learns of it.
fn draft(definition: &NetworkDefinition, space: &str) -> NetworkDraft {
    let of_family = |v4: bool| {
        let subnets = definition.subnets.iter();
        let subnets = subnets.filter(move |config| config.subnet.is_ipv4() == v4);
        let mut pools: Vec<NetworkPool> = subnets.map(|config| pool(config, space)).collect();
        let enabled = if v4 { definition.ipv4 } else { definition.ipv6 };
        // Whose addresses the driver knows itself.
        if definition.ipam_driver == "null" && enabled {
            let all = if v4 { "0.0.0.0/0" } else { "::/0" };
            pools.push(NetworkPool {
                address_space: space.to_owned(),
                pool: all.to_owned(),
                gateway: all.to_owned(),
                aux_addresses: BTreeMap::new(),
            });
        }
        pools
    };
    let mut options = Map::new();
    let mut set =
        |name: &str, value: Value| options.insert(format!("com.docker.network.{name}"), value);
    set("enable_ipv4", definition.ipv4.into());
    set("enable_ipv6", definition.ipv6.into());
    if definition.internal {
        set("internal", true.into());
    }
    set("generic", json!(definition.options));
    NetworkDraft {
        id: definition.id.to_string(),
        options,
        ipv4: of_family(true),
        ipv6: of_family(false),
    }
}

fn pool(config: &NetworkSubnet, space: &str) -> NetworkPool {
    let prefix = config.subnet.prefix();
    let with_prefix = |address: &IpAddr| format!("{address}/{prefix}");
    let auxiliary = config.auxiliary.iter();
    NetworkPool {
        address_space: space.to_owned(),
        pool: config.subnet.to_string(),
        gateway: with_prefix(&config.gateway),
        aux_addresses: auxiliary
            .map(|(name, address)| (name.clone(), with_prefix(address)))
            .collect(),
    }
}
