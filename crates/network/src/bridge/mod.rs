//! The built-in network: a bridge, an address per pod from its subnet, published ports.
//!
//! Everything blocks, and `attach` changes its thread's namespace: callers give it a thread.
//!
//! ```text
//!            ensure                    attach                         detach
//!   (none) ---------> bridge + table ---------> record, veth, ports ---------> (none)
//! ```
//!
//! A failed `attach` runs the same undo as `detach`.

pub(crate) mod device;
mod endpoint;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use berth_names::SandboxId;
use parking_lot::Mutex;

use self::device::Device;
use self::endpoint::Endpoint;
use crate::addresses::Pool;
use crate::config::BridgeConfig;
use crate::error::{Error, Result};
use crate::firewall::{Element, Entry, Firewall, Plan, concerns_flows};
use crate::netlink::Route;
use crate::pod::{Attachment, PodNetwork, PortMapping};
use crate::ports::{self, Ports, Taken};
use crate::record::{BridgeAttachment, Driver, Record, Records};

pub(crate) struct Bridge {
    config: Mutex<BridgeConfig>,
    /// Whether an administrator chose the subnets.
    chosen: bool,
    records: Arc<Records>,
    /// Talks to the host's namespace from whatever namespace its user is in.
    route: Mutex<Route>,
    /// Made when the first pod needs it. The lock is held over that making on purpose: the second
    /// pod has nothing to do until then.
    standing: Mutex<Option<Arc<Standing>>>,
    /// Why it could not be made, until it can.
    fault: Mutex<Option<String>>,
}

/// The bridge as it stands on the host.
struct Standing {
    name: String,
    device: Mutex<Device>,
    index: Mutex<Index>,
    firewall: Mutex<Firewall<Plan>>,
}

/// Who has what; memory only.
struct Index {
    pools: Vec<Pool<SandboxId>>,
    ports: Ports<SandboxId>,
}

impl Bridge {
    /// Opens the sockets in the calling thread's network namespace: the host's, from now on.
    pub(crate) fn open(config: BridgeConfig, records: Arc<Records>) -> Result<Self> {
        let route = Route::open().map_err(|source| Error::Socket {
            protocol: "route",
            source,
        })?;
        Ok(Self {
            chosen: !config.subnets.is_empty(),
            config: Mutex::new(config),
            records,
            route: Mutex::new(route),
            standing: Mutex::new(None),
            fault: Mutex::new(None),
        })
    }

    /// Gives the bridge other subnets, as long as it does not stand yet and none were chosen for it;
    /// says whether it has them now.
    pub(crate) fn offer_subnets(&self, subnets: &[crate::Subnet]) -> bool {
        let standing = self.standing.lock();
        if let Some(standing) = &*standing {
            return standing.device.lock().subnets == subnets;
        }
        let mut config = self.config.lock();
        if !self.chosen {
            config.subnets = subnets.to_vec();
        }
        config.subnets == subnets
    }

    /// Makes the bridge and its table if they do not stand, and learns from the records what is in
    /// use. Must run on a thread in the host's network namespace.
    pub(crate) fn ensure(&self) -> Result<()> {
        self.standing().map(drop)
    }

    fn standing(&self) -> Result<Arc<Standing>> {
        let mut standing = self.standing.lock();
        if let Some(present) = &*standing {
            return Ok(Arc::clone(present));
        }
        let made = self.make();
        *self.fault.lock() = made.as_ref().err().map(crate::cni::words);
        let fresh = made?;
        *standing = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    fn make(&self) -> Result<Arc<Standing>> {
        let config = self.config.lock().clone();
        let device = device::ensure(&config, &self.records, &mut self.route.lock())?;
        let mut index = Index {
            pools: device.subnets.iter().copied().map(Pool::new).collect(),
            ports: Ports::default(),
        };
        let mut elements = HashMap::new();
        for record in self.records.load()? {
            let Driver::Bridge(attachment) = &record.driver else {
                continue;
            };
            index.restore(&record.sandbox, attachment);
            let ports = elements_of(&attachment.addresses, &attachment.ports);
            elements.insert(record.sandbox.clone(), entries_of(&ports));
        }
        let plan = Plan {
            bridge: config.name.clone(),
            subnets: device.subnets.clone(),
            masquerade: config.masquerade,
        };
        Ok(Arc::new(Standing {
            name: config.name,
            device: Mutex::new(device),
            index: Mutex::new(index),
            firewall: Mutex::new(Firewall::install(plan, elements)?),
        }))
    }

    /// Connects a pod, or leaves nothing of it behind.
    pub(crate) fn attach(&self, pod: &PodNetwork) -> Result<Attachment> {
        let standing = self.standing()?;
        let ports = published(pod);
        for mapping in &ports {
            ports::check_host(mapping)?;
        }
        let addresses = standing.index.lock().take(&pod.id, &ports)?;
        let bound = ports.iter().filter_map(PortMapping::bound_ip);
        let taken = BridgeAttachment {
            addresses,
            ports: ports.clone(),
            bandwidth: pod.bandwidth,
        };
        let attached = match check_families(pod, bound, &taken.addresses) {
            Ok(()) => self.connect(&standing, pod, &taken),
            Err(error) => Err(error),
        };
        if attached.is_err()
            && let Err(error) = self.release(&standing, &pod.id, true)
        {
            // The record stays and with it all that is taken, until a teardown succeeds.
            tracing::warn!(sandbox = %pod.id, ?error, "a failed pod network is not undone yet");
        }
        attached
    }

    fn connect(
        &self,
        standing: &Standing,
        pod: &PodNetwork,
        taken: &BridgeAttachment,
    ) -> Result<Attachment> {
        self.records.put(&Record {
            sandbox: pod.id.clone(),
            netns: pod.netns.clone(),
            driver: Driver::Bridge(taken.clone()),
        })?;
        berth_faults::at("network.attach.after-record")?;
        let endpoint = Endpoint {
            host_name: endpoint::host_name(&pod.id),
            netns: &pod.netns,
            addresses: &taken.addresses,
            bandwidth: taken.bandwidth,
        };
        // The table first: it belongs to the host's namespace by its socket, and a refused port
        // then costs no interface.
        let elements = elements_of(&taken.addresses, &taken.ports);
        standing
            .firewall
            .lock()
            .publish(&pod.id, entries_of(&elements))?;
        berth_faults::at("network.attach.after-table")?;
        self.forget_flows(standing, &elements)?;
        let device = standing.device.lock().clone();
        endpoint.plug(&self.route, &device)?;
        berth_faults::at("network.attach.after-cable")?;
        Ok(Attachment {
            ips: taken.addresses.clone(),
            result: endpoint.result(&standing.name, &device),
        })
    }

    /// Why the bridge does not stand although it was asked for.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    fn forget_flows(&self, standing: &Standing, elements: &[Element]) -> Result<()> {
        if !concerns_flows(elements) {
            return Ok(());
        }
        let addresses = self.route.lock().addresses();
        let addresses = addresses
            .map_err(|source| device::refused("list addresses", &standing.name, source))?;
        let local = addresses
            .into_iter()
            .map(|address| address.address)
            .collect();
        standing.firewall.lock().forget_flows(elements, &local);
        Ok(())
    }

    /// Takes back ports and addresses. The cable goes with the pod's namespace; `unplug` removes it
    /// now, for a namespace that stays.
    pub(crate) fn detach(&self, sandbox: &SandboxId, unplug: bool) -> Result<()> {
        let standing = self.standing.lock().clone();
        match standing {
            Some(standing) => self.release(&standing, sandbox, unplug),
            // Index and table are made from the records: without the record there is no pod.
            None => {
                let unplugged = if unplug { self.unplug(sandbox) } else { Ok(()) };
                unplugged.and_then(|()| self.records.remove(sandbox))
            }
        }
    }

    fn unplug(&self, sandbox: &SandboxId) -> Result<()> {
        let name = endpoint::host_name(sandbox);
        self.route
            .lock()
            .delete_link(&name)
            .map_err(|source| device::refused("remove the pod's interface", &name, source))
    }

    /// Every step runs whatever became of the others; but what a failed step left in use is not
    /// given to anybody else.
    fn release(&self, standing: &Standing, sandbox: &SandboxId, unplug: bool) -> Result<()> {
        let mut failures = Vec::new();
        failures.extend(standing.firewall.lock().withdraw(sandbox).err());
        berth_faults::passing("network.detach.after-table");
        if unplug {
            failures.extend(self.unplug(sandbox).err());
        }
        if failures.is_empty() {
            failures.extend(self.records.remove(sandbox).err());
            berth_faults::passing("network.detach.after-record");
        }
        if failures.is_empty() {
            standing.index.lock().release(sandbox);
        }
        Error::gather(sandbox, failures)
    }

    /// Puts back what others removed: the interface, its ports, the table. Must run on a thread in
    /// the host's network namespace. Says whether anything was amiss.
    pub(crate) fn heal(&self) -> Result<bool> {
        let Some(standing) = self.standing.lock().clone() else {
            return Ok(false);
        };
        let config = self.config.lock().clone();
        let found = device::find(&config.name, &mut self.route.lock())?;
        let index = standing.device.lock().index;
        let lost = found.is_none_or(|link| link.index != index || !link.up);
        if lost {
            let device = device::ensure(&config, &self.records, &mut self.route.lock())?;
            for record in self.records.load()? {
                let name = endpoint::host_name(&record.sandbox);
                // A pod that is going has no cable any more.
                let _ = self.route.lock().set_controller(&name, device.index);
            }
            *standing.device.lock() = device;
        }
        Ok(standing.firewall.lock().heal()? || lost)
    }

    /// How many addresses are in use, per subnet; nothing before the first pod.
    pub(crate) fn usage(&self) -> Vec<(crate::Subnet, usize)> {
        let Some(standing) = self.standing.lock().clone() else {
            return Vec::new();
        };
        let index = standing.index.lock();
        index
            .pools
            .iter()
            .map(|pool| (pool.subnet(), pool.taken()))
            .collect()
    }

    /// Removes table and interface: for a host that gives up on Berth. Pods must be gone.
    pub(crate) fn dismantle(&self) -> Result<()> {
        let Some(standing) = self.standing.lock().take() else {
            return Ok(());
        };
        let removed = self.route.lock().delete_link(&standing.name);
        let removed =
            removed.map_err(|source| device::refused("remove the bridge", &standing.name, source));
        standing.firewall.lock().remove().and(removed)
    }
}

impl Index {
    fn take(&mut self, sandbox: &SandboxId, ports: &[PortMapping]) -> Result<Vec<IpAddr>> {
        self.ports
            .take(sandbox, ports)
            .map_err(|Taken { mapping, holder }| Error::PortTaken {
                port: mapping.host_port,
                protocol: mapping.protocol,
                holder,
            })?;
        let mut addresses = Vec::with_capacity(self.pools.len());
        for pool in &mut self.pools {
            match pool.take(sandbox) {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    self.release(sandbox);
                    return Err(error);
                }
            }
        }
        Ok(addresses)
    }

    fn restore(&mut self, sandbox: &SandboxId, attachment: &BridgeAttachment) {
        for address in &attachment.addresses {
            for pool in &mut self.pools {
                pool.restore(*address, sandbox);
            }
        }
        for mapping in &attachment.ports {
            self.ports.restore(sandbox, mapping);
        }
    }

    fn release(&mut self, sandbox: &SandboxId) {
        self.ports.release(sandbox);
        for pool in &mut self.pools {
            pool.release(sandbox);
        }
    }
}

/// The mappings with a host port; one that two containers declare alike counts once.
fn published(pod: &PodNetwork) -> Vec<PortMapping> {
    let mut ports: Vec<PortMapping> = Vec::new();
    for mapping in pod
        .port_mappings
        .iter()
        .filter(|mapping| mapping.published())
    {
        if !ports.contains(mapping) {
            ports.push(mapping.clone());
        }
    }
    ports
}

fn check_families(
    pod: &PodNetwork,
    mut bound: impl Iterator<Item = IpAddr>,
    addresses: &[IpAddr],
) -> Result<()> {
    let served = |ip: IpAddr| {
        addresses
            .iter()
            .any(|address| address.is_ipv4() == ip.is_ipv4())
    };
    if bound.all(served) {
        return Ok(());
    }
    Err(Error::InvalidPod {
        sandbox: pod.id.clone(),
        field: "a port mapping's host address",
        reason: "the network has no addresses of its family",
    })
}

fn entries_of(elements: &[Element]) -> Vec<Entry> {
    elements.iter().map(Entry::from).collect()
}

pub(crate) fn elements_of(addresses: &[IpAddr], ports: &[PortMapping]) -> Vec<Element> {
    let leads_to = |mapping: &PortMapping, address: IpAddr| {
        mapping
            .host_ip
            .is_none_or(|ip| ip.is_ipv4() == address.is_ipv4())
    };
    ports
        .iter()
        .flat_map(|mapping| {
            addresses
                .iter()
                .filter(|address| leads_to(mapping, **address))
                .map(|address| Element {
                    protocol: mapping.protocol,
                    host_ip: mapping.bound_ip(),
                    host_port: mapping.host_port,
                    pod_ip: *address,
                    pod_port: mapping.container_port,
                })
        })
        .collect()
}
