//! What Berth asks of rtnetlink: bridges, veths, addresses, routes and counters.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::channel::{Channel, Refusal};
use super::wire::{self, Message};
use crate::subnet::Subnet;

const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const RTMSG: usize = 12;

const VETH_INFO_PEER: u16 = 1;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const BRIDGE_PORT_HAIRPIN: u16 = 4;
const BRIDGE_PORT_ISOLATED: u16 = 33;
const BRIDGE_FORWARD_DELAY: u16 = 1;
const BRIDGE_STP_STATE: u16 = 5;

/// A veth pair to be made by one message: one end here, the other in a pod.
#[derive(Debug)]
pub(crate) struct VethPlan<'a> {
    pub host_name: &'a str,
    pub bridge_index: u32,
    pub pod_name: &'a str,
    pub pod_netns: BorrowedFd<'a>,
    pub pod_mac: [u8; 6],
    pub mtu: u32,
}

/// One interface, with its counters since it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub loopback: bool,
    pub mtu: u32,
    pub bridge: bool,
    pub mac: [u8; 6],
    /// What whoever manages it has noted there.
    pub alias: String,
    pub counters: crate::counters::Counters,
}

/// Where an interface goes, and as what.
#[derive(Debug)]
pub(crate) struct Move<'a> {
    pub to: BorrowedFd<'a>,
    pub name: &'a str,
    pub mac: Option<[u8; 6]>,
    pub alias: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AddressInfo {
    pub index: u32,
    pub address: IpAddr,
    /// The one that the address came with.
    pub subnet: Subnet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RouteInfo {
    /// `None` is a default route.
    pub destination: Option<Subnet>,
    /// 0 where the route has no single interface.
    pub index: u32,
}

/// A rtnetlink socket of one network namespace.
pub(crate) struct Route {
    channel: Channel,
}

impl Route {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            channel: Channel::open(libc::NETLINK_ROUTE)?,
        })
    }

    /// The interface called `name`; `None` when there is none.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<LinkInfo>, Refusal> {
        let mut message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0, 0));
        message.string(libc::IFLA_IFNAME, name);
        let mut found = None;
        match self
            .channel
            .list(message, |payload| found = parse_link(payload))
        {
            Ok(()) => Ok(found),
            Err(refusal) if refusal.errno() == Errno::NODEV => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    pub(crate) fn links(&mut self) -> Result<Vec<LinkInfo>, Refusal> {
        self.dump(libc::RTM_GETLINK, &link_header(0, 0, 0), parse_link)
    }

    pub(crate) fn addresses(&mut self) -> Result<Vec<AddressInfo>, Refusal> {
        self.dump(libc::RTM_GETADDR, &[0; IFADDRMSG], parse_address)
    }

    /// The unicast routes of the main and other user tables, IPv4 and IPv6.
    pub(crate) fn routes(&mut self) -> Result<Vec<RouteInfo>, Refusal> {
        self.dump(libc::RTM_GETROUTE, &[0; RTMSG], parse_route)
    }

    /// Makes a bridge without spanning tree, down, with a MAC of its own: a bridge that takes over
    /// its ports' lowest MAC changes identity as pods come and go.
    pub(crate) fn create_bridge(
        &mut self,
        name: &str,
        mac: [u8; 6],
        mtu: u32,
    ) -> Result<(), Refusal> {
        let mut message = Message::new(
            libc::RTM_NEWLINK,
            (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16,
            &link_header(0, 0, 0),
        );
        message
            .string(libc::IFLA_IFNAME, name)
            .bytes(libc::IFLA_ADDRESS, &mac)
            .number(libc::IFLA_MTU, mtu)
            .nest(libc::IFLA_LINKINFO, |info| {
                info.string(libc::IFLA_INFO_KIND, "bridge")
                    .nest(libc::IFLA_INFO_DATA, |data| {
                        data.number(BRIDGE_FORWARD_DELAY, 0)
                            .number(BRIDGE_STP_STATE, 0);
                    });
            });
        self.channel.ask(message)
    }

    /// Makes the pair with the pod's end born in the pod's namespace (moving it there afterwards
    /// would wait for an RCU grace period), and the host's end a bridge port that is up.
    pub(crate) fn create_veth(&mut self, plan: &VethPlan<'_>) -> Result<(), Refusal> {
        let up = libc::IFF_UP as u32;
        let mut message = Message::new(
            libc::RTM_NEWLINK,
            (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16,
            &link_header(0, up, up),
        );
        message
            .string(libc::IFLA_IFNAME, plan.host_name)
            .number(libc::IFLA_MTU, plan.mtu)
            .number(libc::IFLA_MASTER, plan.bridge_index)
            .nest(libc::IFLA_LINKINFO, |info| {
                info.string(libc::IFLA_INFO_KIND, "veth")
                    .nest(libc::IFLA_INFO_DATA, |data| {
                        // The pod's end cannot be brought up here: it has no peer yet.
                        data.nest_behind(VETH_INFO_PEER, &link_header(0, 0, 0), |peer| {
                            peer.string(libc::IFLA_IFNAME, plan.pod_name)
                                .bytes(libc::IFLA_ADDRESS, &plan.pod_mac)
                                .number(libc::IFLA_MTU, plan.mtu)
                                .number(libc::IFLA_NET_NS_FD, plan.pod_netns.as_raw_fd() as u32);
                        });
                    });
            });
        self.channel.ask(message)
    }

    /// Lets a bridge port send a frame back to where it came from. Where `br_netfilter` is loaded, a
    /// pod that reaches itself by a published port or a service needs that: the translated packet is
    /// then bridged, not routed.
    pub(crate) fn set_hairpin(&mut self, name: &str) -> Result<(), Refusal> {
        self.set_bridge_port(name, &[BRIDGE_PORT_HAIRPIN])
    }

    /// The same, and keeps the port from exchanging frames with others that are set so: they reach
    /// the bridge itself only.
    pub(crate) fn set_isolated(&mut self, name: &str) -> Result<(), Refusal> {
        self.set_bridge_port(name, &[BRIDGE_PORT_HAIRPIN, BRIDGE_PORT_ISOLATED])
    }

    fn set_bridge_port(&mut self, name: &str, switches: &[u16]) -> Result<(), Refusal> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(0, 0, 0));
        message
            .string(libc::IFLA_IFNAME, name)
            .nest(libc::IFLA_LINKINFO, |info| {
                info.string(INFO_SLAVE_KIND, "bridge")
                    .nest(INFO_SLAVE_DATA, |data| {
                        for switch in switches {
                            data.bytes(*switch, &[1]);
                        }
                    });
            });
        self.channel.ask(message)
    }

    pub(crate) fn set_up(&mut self, index: u32) -> Result<(), Refusal> {
        let up = libc::IFF_UP as u32;
        self.channel.ask(Message::new(
            libc::RTM_NEWLINK,
            0,
            &link_header(index, up, up),
        ))
    }

    /// Makes the interface called `name` a port of the bridge with `index`.
    pub(crate) fn set_controller(&mut self, name: &str, index: u32) -> Result<(), Refusal> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(0, 0, 0));
        message
            .string(libc::IFLA_IFNAME, name)
            .number(libc::IFLA_MASTER, index);
        self.channel.ask(message)
    }

    /// Moves an interface into another namespace, where it is down and has another name.
    pub(crate) fn move_link(&mut self, index: u32, plan: &Move<'_>) -> Result<(), Refusal> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0, 0));
        message
            .number(libc::IFLA_NET_NS_FD, plan.to.as_raw_fd() as u32)
            .string(libc::IFLA_IFNAME, plan.name)
            .string(libc::IFLA_IFALIAS, plan.alias);
        if let Some(mac) = &plan.mac {
            message.bytes(libc::IFLA_ADDRESS, mac);
        }
        self.channel.ask(message)
    }

    /// Takes an interface down; its absence is success.
    pub(crate) fn set_down(&mut self, name: &str) -> Result<(), Refusal> {
        let header = link_header(0, 0, libc::IFF_UP as u32);
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &header);
        message.string(libc::IFLA_IFNAME, name);
        match self.channel.ask(message) {
            Err(refusal) if refusal.errno() == Errno::NODEV => Ok(()),
            other => other,
        }
    }

    /// Removes an interface; its absence is success.
    pub(crate) fn delete_link(&mut self, name: &str) -> Result<(), Refusal> {
        let mut message = Message::new(libc::RTM_DELLINK, 0, &link_header(0, 0, 0));
        message.string(libc::IFLA_IFNAME, name);
        match self.channel.ask(message) {
            Err(refusal) if refusal.errno() == Errno::NODEV => Ok(()),
            other => other,
        }
    }

    /// Gives an interface an address at once usable: without duplicate address detection, because
    /// whoever hands out the subnet's addresses hands each one out once.
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), Refusal> {
        let (family, bytes) = octets(address);
        let flags = if address.is_ipv6() {
            libc::IFA_F_NODAD as u8
        } else {
            0
        };
        let mut header = vec![family, prefix, flags, libc::RT_SCOPE_UNIVERSE];
        header.extend_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(
            libc::RTM_NEWADDR,
            (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16,
            &header,
        );
        message
            .bytes(libc::IFA_LOCAL, &bytes)
            .bytes(libc::IFA_ADDRESS, &bytes);
        if let IpAddr::V4(address) = address {
            let broadcast = u32::from(address) | u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            message.bytes(libc::IFA_BROADCAST, &broadcast.to_be_bytes());
        }
        self.channel.ask(message)
    }

    pub(crate) fn add_default_route(&mut self, index: u32, gateway: IpAddr) -> Result<(), Refusal> {
        self.add_route(index, None, Some(gateway))
    }

    /// A way through an interface: to all of `gateway`'s family without a destination, and without
    /// a gateway to what is on its own link.
    pub(crate) fn add_route(
        &mut self,
        index: u32,
        destination: Option<Subnet>,
        gateway: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let like = gateway.or(destination.map(|subnet| subnet.base()));
        let Some((family, _)) = like.map(octets) else {
            return Ok(());
        };
        let mut header = [0; RTMSG];
        header[0] = family;
        header[1] = destination.map_or(0, |subnet| subnet.prefix());
        header[4] = libc::RT_TABLE_MAIN;
        header[5] = libc::RTPROT_STATIC;
        header[6] = match gateway {
            Some(_) => libc::RT_SCOPE_UNIVERSE,
            None => libc::RT_SCOPE_LINK,
        };
        header[7] = libc::RTN_UNICAST;
        let mut message = Message::new(
            libc::RTM_NEWROUTE,
            (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16,
            &header,
        );
        if let Some(subnet) = destination.filter(|subnet| subnet.prefix() > 0) {
            message.bytes(libc::RTA_DST, &octets(subnet.base()).1);
        }
        if let Some(gateway) = gateway {
            message.bytes(libc::RTA_GATEWAY, &octets(gateway).1);
        }
        message.number(libc::RTA_OIF, index);
        self.channel.ask(message)
    }

    /// Shapes what leaves through an interface with a token bucket.
    ///
    /// `rate` is in bytes a second; `burst` in bytes. Packets wait at most 25 ms.
    pub(crate) fn limit_rate(&mut self, index: u32, rate: u64, burst: u32) -> Result<(), Refusal> {
        self.channel
            .ask(super::shaping::token_bucket(index, rate, burst))
    }

    fn dump<T>(
        &mut self,
        kind: u16,
        header: &[u8],
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        // A list that changed while it was read is read again; twice is already rare.
        let mut tries = 0;
        loop {
            let mut found = Vec::new();
            let message = Message::new(kind, libc::NLM_F_DUMP as u16, header);
            match self
                .channel
                .list(message, |payload| found.extend(parse(payload)))
            {
                Err(refusal) if refusal.errno() == Errno::INTR && tries < 5 => tries += 1,
                Err(refusal) => return Err(refusal),
                Ok(()) => return Ok(found),
            }
        }
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; IFINFOMSG] {
    let mut header = [0; IFINFOMSG];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn parse_link(payload: &[u8]) -> Option<LinkInfo> {
    let flags = wire::u32_at(payload, 8)?;
    let mut link = LinkInfo {
        index: wire::u32_at(payload, 4)?,
        name: String::new(),
        up: flags & libc::IFF_UP as u32 != 0,
        loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
        mtu: 0,
        bridge: false,
        mac: [0; 6],
        alias: String::new(),
        counters: Default::default(),
    };
    for (kind, value) in wire::attributes(payload.get(IFINFOMSG..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = wire::text(value),
            // Others than Ethernet's have other lengths.
            libc::IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            libc::IFLA_IFALIAS => link.alias = wire::text(value),
            libc::IFLA_MTU => link.mtu = wire::u32_at(value, 0).unwrap_or(0),
            libc::IFLA_STATS64 => link.counters = crate::counters::parse(value),
            libc::IFLA_LINKINFO => {
                link.bridge = wire::attributes(value).any(|(kind, value)| {
                    kind == libc::IFLA_INFO_KIND && wire::text(value) == "bridge"
                });
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(payload: &[u8]) -> Option<AddressInfo> {
    let prefix = *payload.get(1)?;
    let index = wire::u32_at(payload, 4)?;
    // On a point-to-point link ADDRESS is the other end's, LOCAL ours.
    let mut address = None;
    for (kind, value) in wire::attributes(payload.get(IFADDRMSG..)?) {
        match kind {
            libc::IFA_LOCAL => address = address_of(value),
            libc::IFA_ADDRESS if address.is_none() => address = address_of(value),
            _ => {}
        }
    }
    let address = address?;
    Some(AddressInfo {
        index,
        address,
        subnet: Subnet::new(address, prefix).ok()?,
    })
}

fn parse_route(payload: &[u8]) -> Option<RouteInfo> {
    let (prefix, kind) = (*payload.get(1)?, *payload.get(7)?);
    if kind != libc::RTN_UNICAST {
        return None;
    }
    let (mut destination, mut index) = (None, 0);
    for (kind, value) in wire::attributes(payload.get(RTMSG..)?) {
        match kind {
            libc::RTA_DST => destination = Subnet::new(address_of(value)?, prefix).ok(),
            libc::RTA_OIF => index = wire::u32_at(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    Some(RouteInfo { destination, index })
}
