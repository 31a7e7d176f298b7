//! One pod's cable: a veth whose one end is a port of the bridge, the other the pod's `eth0`.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use parking_lot::Mutex;
use serde_json::json;

use super::device::{Device, mac_of, refused, settle_ipv6};
use crate::error::{Error, Result};
use crate::netlink::{Route, VethPlan};
use crate::pod::{Bandwidth, POD_INTERFACE};
use crate::subnet::Subnet;
use crate::threads;

/// Loopback's index in every network namespace.
const LOOPBACK: u32 = 1;
/// The smallest burst that lets full-size offloaded packets through, in bytes.
const LEAST_BURST: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Endpoint<'a> {
    pub host_name: String,
    pub netns: &'a Path,
    pub addresses: &'a [IpAddr],
    pub bandwidth: Option<Bandwidth>,
}

/// The host's end of a sandbox's cable; at most 15 bytes, as an interface's name must be.
pub(super) fn host_name(sandbox: &berth_names::SandboxId) -> String {
    format!("berth{}", &sandbox.as_str()[..10])
}

impl Endpoint<'_> {
    /// Plugs the cable in. Leaves the calling thread in the pod's namespace: only for a thread that
    /// ends soon. `host` keeps talking to the host's.
    pub(super) fn plug(&self, host: &Mutex<Route>, device: &Device) -> Result<()> {
        let netns = threads::open_netns(self.netns)?;
        let mac = self
            .addresses
            .first()
            .map_or([0; 6], |address| mac_of(*address));
        let plan = VethPlan {
            host_name: &self.host_name,
            bridge_index: device.index,
            pod_name: POD_INTERFACE,
            pod_netns: netns.as_fd(),
            pod_mac: mac,
            mtu: device.mtu,
        };
        {
            let mut host = host.lock();
            match host.create_veth(&plan) {
                // A cable of an attempt that was cut short; the name is the sandbox's alone.
                Err(refusal) if refusal.errno() == rustix::io::Errno::EXIST => host
                    .delete_link(&self.host_name)
                    .and_then(|()| host.create_veth(&plan)),
                other => other,
            }
            .and_then(|()| host.set_hairpin(&self.host_name))
            .map_err(|source| refused("create the pod's interface", &self.host_name, source))?;
        }
        berth_faults::at("network.attach.after-veth")?;
        if let Some(rate) = self.bandwidth.filter(|limit| limit.ingress_rate > 0) {
            limit(
                &mut host.lock(),
                &self.host_name,
                rate.ingress_rate,
                rate.ingress_burst,
            )?;
        }
        threads::enter_netns(&netns, self.netns)?;
        self.configure(device)
    }

    /// The pod's side, from within.
    fn configure(&self, device: &Device) -> Result<()> {
        let mut route = Route::open().map_err(|source| Error::Socket {
            protocol: "route",
            source,
        })?;
        let object = format!("{POD_INTERFACE} in {}", self.netns.display());
        let wrong = |operation| move |source| refused(operation, &object, source);
        let link = route
            .link(POD_INTERFACE)
            .map_err(wrong.clone()("find the pod's interface"))?
            .ok_or_else(|| {
                wrong.clone()("find the pod's interface")(rustix::io::Errno::NODEV.into())
            })?;
        settle_ipv6(POD_INTERFACE);
        let assigned = self.assigned(device);
        for (address, subnet) in &assigned {
            route
                .add_address(link.index, *address, subnet.prefix())
                .map_err(wrong.clone()("give the pod its address"))?;
        }
        route
            .set_up(link.index)
            .map_err(wrong.clone()("bring the pod's interface up"))?;
        route
            .set_up(LOOPBACK)
            .map_err(wrong.clone()("bring the pod's loopback up"))?;
        for (_, subnet) in &assigned {
            if let Some(gateway) = subnet.nth(1) {
                route
                    .add_default_route(link.index, gateway)
                    .map_err(wrong.clone()("give the pod its default route"))?;
            }
        }
        if let Some(rate) = self.bandwidth.filter(|limit| limit.egress_rate > 0) {
            limit(
                &mut route,
                POD_INTERFACE,
                rate.egress_rate,
                rate.egress_burst,
            )?;
        }
        Ok(())
    }

    /// Each address with the subnet that it belongs to.
    fn assigned(&self, device: &Device) -> Vec<(IpAddr, Subnet)> {
        self.addresses
            .iter()
            .filter_map(|address| {
                let subnet = device
                    .subnets
                    .iter()
                    .find(|subnet| subnet.contains(*address))?;
                Some((*address, *subnet))
            })
            .collect()
    }

    /// What a chain of plugins would have answered.
    pub(super) fn result(&self, bridge: &str, device: &Device) -> serde_json::Value {
        let mac = self
            .addresses
            .first()
            .map_or([0; 6], |address| mac_of(*address));
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let assigned = self.assigned(device);
        let ips: Vec<_> = assigned
            .iter()
            .map(|(address, subnet)| {
                json!({
                    "address": format!("{address}/{}", subnet.prefix()),
                    "gateway": subnet.nth(1),
                    "interface": 2,
                })
            })
            .collect();
        let routes: Vec<_> = assigned
            .iter()
            .map(|(address, subnet)| {
                let everything = if address.is_ipv4() {
                    "0.0.0.0/0"
                } else {
                    "::/0"
                };
                json!({ "dst": everything, "gw": subnet.nth(1) })
            })
            .collect();
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": bridge },
                { "name": self.host_name },
                { "name": POD_INTERFACE, "mac": mac, "sandbox": self.netns },
            ],
            "ips": ips,
            "routes": routes,
            "dns": {},
        })
    }
}

fn limit(route: &mut Route, name: &str, rate_bits: u64, burst_bits: u64) -> Result<()> {
    let link = route
        .link(name)
        .map_err(|source| refused("find the interface", name, source))?
        .ok_or_else(|| refused("find the interface", name, rustix::io::Errno::NODEV.into()))?;
    let burst = (burst_bits / 8).clamp(LEAST_BURST, u32::MAX.into()) as u32;
    route
        .limit_rate(link.index, (rate_bits / 8).max(1), burst)
        .map_err(|source| refused("limit the pod's bandwidth", name, source))
}
