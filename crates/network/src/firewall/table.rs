//! The requests that make up our nftables table. Numbers are attribute kinds of
//! `linux/netfilter/nf_tables.h`.
//!
//! ```text
//! table inet berth_<bridge>
//!   map ports_v4, ports_v6               proto . port           : pod address . pod port
//!   map bound_ports_v4, bound_ports_v6   address . proto . port : pod address . pod port
//!   chain guard        prerouting, raw      pods must not reach 127.0.0.0/8 of the host
//!   chain prerouting   dstnat               to this host: goto host_ports
//!   chain output       dstnat               to this host: goto host_ports
//!   chain host_ports                        the four maps
//!   chain postrouting  srcnat               localhost, hairpin, and pods to the world
//!   chain forward      filter               what crosses the bridge is accepted
//! ```

use std::net::IpAddr;

use super::expression::{Compare, Family, R1, R2, Rule, Verdict, word};
use crate::netlink::wire::Message;
use crate::pod::Protocol;
use crate::subnet::Subnet;

const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = (libc::NLM_F_CREATE | libc::NLM_F_APPEND) as u16;

/// Types as the nft tool knows them; the kernel only keeps them.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_BITS: u32 = 6;

/// Elements in one message: an attribute's length has 16 bits.
const CHUNK: usize = 400;

pub(super) const MAPS: [Map; 4] = [
    Map {
        name: "ports_v4",
        family: Family::V4,
        bound: false,
    },
    Map {
        name: "ports_v6",
        family: Family::V6,
        bound: false,
    },
    Map {
        name: "bound_ports_v4",
        family: Family::V4,
        bound: true,
    },
    Map {
        name: "bound_ports_v6",
        family: Family::V6,
        bound: true,
    },
];

#[derive(Debug, Clone, Copy)]
pub(super) struct Map {
    pub name: &'static str,
    family: Family,
    /// Whether the host's address is part of the key.
    bound: bool,
}

/// One entry of a map: a port of the host and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Element {
    pub protocol: Protocol,
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub pod_ip: IpAddr,
    pub pod_port: u16,
}

impl Element {
    /// The map's index in `MAPS`.
    pub(super) fn map(&self) -> usize {
        usize::from(self.pod_ip.is_ipv6()) + 2 * usize::from(self.host_ip.is_some())
    }

    fn key(&self) -> Vec<u8> {
        let mut key = self.host_ip.map(octets).unwrap_or_default();
        key.extend_from_slice(&[self.protocol.number(), 0, 0, 0]);
        key.extend_from_slice(&port_word(self.host_port));
        key
    }

    fn value(&self) -> Vec<u8> {
        let mut value = octets(self.pod_ip);
        value.extend_from_slice(&port_word(self.pod_port));
        value
    }
}

/// What the rules depend on.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub bridge: String,
    pub subnets: Vec<Subnet>,
    pub masquerade: bool,
}

impl Plan {
    pub(super) fn table(&self) -> String {
        format!("berth_{}", self.bridge)
    }

    /// Everything: whatever the table held before is replaced in the same transaction. Returns how
    /// many rules there are with it.
    pub(super) fn install(&self) -> (Vec<Message>, usize) {
        let table = self.table();
        let mut requests = vec![new_table(&table), delete_table(&table), new_table(&table)];
        requests.extend(
            MAPS.iter()
                .enumerate()
                .map(|(at, map)| new_map(&table, map, at)),
        );
        requests.push(chain(&table, "host_ports", None));
        for (name, hook) in HOOKS {
            requests.push(chain(&table, name, Some(*hook)));
        }
        let before = requests.len();
        self.rules(&table, &mut requests);
        let rules = requests.len() - before;
        (requests, rules)
    }

    fn rules(&self, table: &str, out: &mut Vec<Message>) {
        let bridge = self.bridge.as_str();
        let mut add = |chain: &str, build: &dyn Fn(Rule<'_>)| out.push(rule(table, chain, build));
        // route_localnet lets the host's own 127.0.0.1 reach published ports; this keeps it from
        // letting pods reach what listens on the host's 127.0.0.1 only.
        add("guard", &|rule| {
            _ = rule
                .input_interface(Compare::Equal, bridge)
                .family(Family::V4)
                .destination_in(Compare::Equal, Family::V4, &[127, 0, 0, 0], 8)
                .verdict(Verdict::Drop);
        });
        for chain in ["prerouting", "output"] {
            add(chain, &|rule| {
                _ = rule.for_this_host().verdict(Verdict::Goto("host_ports"))
            });
        }
        // The address's own mapping is more particular than the one for all addresses.
        for map in [MAPS[2], MAPS[0], MAPS[3], MAPS[1]] {
            add("host_ports", &|rule| translate(rule, map));
        }
        add("postrouting", &|rule| {
            _ = rule
                .output_interface(Compare::Equal, bridge)
                .family(Family::V4)
                .source_in(Compare::Equal, Family::V4, &[127, 0, 0, 0], 8)
                .masquerade();
        });
        for subnet in &self.subnets {
            let family = if subnet.is_ipv4() {
                Family::V4
            } else {
                Family::V6
            };
            let (base, prefix) = (octets(subnet.base()), subnet.prefix());
            // A pod that reaches a pod of its own subnet by a published port: without this the
            // answer would go straight to it, from an address that it never spoke to.
            add("postrouting", &|rule| {
                _ = rule
                    .output_interface(Compare::Equal, bridge)
                    .family(family)
                    .source_in(Compare::Equal, family, &base, prefix)
                    .was_dnatted()
                    .masquerade();
            });
            if !self.masquerade {
                continue;
            }
            let (multicast, bits): (&[u8], u8) = match family {
                Family::V4 => (&[224, 0, 0, 0], 4),
                Family::V6 => (&[255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8),
            };
            add("postrouting", &|rule| {
                _ = rule
                    .family(family)
                    .source_in(Compare::Equal, family, &base, prefix)
                    .output_interface(Compare::Different, bridge)
                    .destination_in(Compare::Different, family, multicast, bits)
                    .masquerade();
            });
        }
        add("forward", &|rule| {
            _ = rule
                .input_interface(Compare::Equal, bridge)
                .verdict(Verdict::Accept);
        });
        add("forward", &|rule| {
            _ = rule
                .output_interface(Compare::Equal, bridge)
                .verdict(Verdict::Accept);
        });
    }

    pub(super) fn add_elements(&self, elements: &[Element]) -> Vec<Message> {
        self.elements(libc::NFT_MSG_NEWSETELEM, CREATE, elements)
    }

    pub(super) fn delete_elements(&self, elements: &[Element]) -> Vec<Message> {
        self.elements(libc::NFT_MSG_DELSETELEM, 0, elements)
    }

    fn elements(&self, kind: libc::c_int, flags: u16, elements: &[Element]) -> Vec<Message> {
        let mut requests = Vec::new();
        for (index, map) in MAPS.iter().enumerate() {
            let of_map: Vec<_> = elements
                .iter()
                .filter(|element| element.map() == index)
                .collect();
            for chunk in of_map.chunks(CHUNK) {
                let mut message = request(kind, flags);
                message
                    .string(1, &self.table())
                    .string(2, map.name)
                    .nest(3, |list| {
                        for element in chunk {
                            list.nest(1, |item| {
                                item.nest(1, |key| _ = key.bytes(1, &element.key()))
                                    .nest(2, |value| _ = value.bytes(1, &element.value()));
                            });
                        }
                    });
                requests.push(message);
            }
        }
        requests
    }

    pub(super) fn list_rules(&self) -> Message {
        let mut message = request(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP as u16);
        message.string(1, &self.table());
        message
    }

    pub(super) fn list_elements(&self, map: &Map) -> Message {
        let mut message = request(libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP as u16);
        message.string(1, &self.table()).string(2, map.name);
        message
    }

    pub(super) fn remove(&self) -> Message {
        delete_table(&self.table())
    }
}

/// The hook, the priority (lower runs earlier) and the type of a base chain.
type Hook = (libc::c_int, i32, &'static str);

const HOOKS: &[(&str, Hook)] = &[
    ("guard", (libc::NF_INET_PRE_ROUTING, -300, "filter")),
    ("prerouting", (libc::NF_INET_PRE_ROUTING, -100, "nat")),
    ("output", (libc::NF_INET_LOCAL_OUT, -100, "nat")),
    ("postrouting", (libc::NF_INET_POST_ROUTING, 100, "nat")),
    ("forward", (libc::NF_INET_FORWARD, 0, "filter")),
];

/// The lookup key is built in registers side by side, each field padded to four bytes.
fn translate(rule: Rule<'_>, map: Map) {
    let rule = rule.family(map.family);
    let rule = match (map.bound, map.family) {
        (true, Family::V4) => rule
            .destination(map.family, R1)
            .protocol(word(1))
            .port(word(2)),
        (true, Family::V6) => rule.destination(map.family, R1).protocol(R2).port(word(5)),
        (false, _) => rule.protocol(R1).port(word(1)),
    };
    rule.map(map.name)
        .dnat(map.family, R1, word(map.family.width() / 4));
}

/// Asks for the ruleset's generation, which every change of any table moves.
pub(super) fn generation() -> Message {
    request(libc::NFT_MSG_GETGEN, 0)
}

/// The opening and closing of a transaction.
pub(super) fn bracket() -> (Message, Message) {
    let header = [
        libc::AF_UNSPEC as u8,
        0,
        0,
        libc::NFNL_SUBSYS_NFTABLES as u8,
    ];
    (
        Message::new(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, &header),
        Message::new(libc::NFNL_MSG_BATCH_END as u16, 0, &header),
    )
}

fn request(kind: libc::c_int, flags: u16) -> Message {
    let header = [libc::NFPROTO_INET as u8, libc::NFNETLINK_V0 as u8, 0, 0];
    Message::new(SUBSYSTEM | kind as u16, flags, &header)
}

fn new_table(name: &str) -> Message {
    let mut message = request(libc::NFT_MSG_NEWTABLE, CREATE);
    message.string(1, name);
    message
}

fn delete_table(name: &str) -> Message {
    let mut message = request(libc::NFT_MSG_DELTABLE, 0);
    message.string(1, name);
    message
}

fn chain(table: &str, name: &str, hook: Option<Hook>) -> Message {
    let mut message = request(libc::NFT_MSG_NEWCHAIN, CREATE);
    message.string(1, table).string(3, name);
    if let Some((hook, priority, kind)) = hook {
        message
            .nest(4, |place| {
                place
                    .network_number(1, hook as u32)
                    .network_number(2, priority as u32);
            })
            .network_number(5, libc::NF_ACCEPT as u32)
            .string(7, kind);
    }
    message
}

fn rule(table: &str, chain: &str, build: &dyn Fn(Rule<'_>)) -> Message {
    let mut message = request(libc::NFT_MSG_NEWRULE, APPEND);
    message
        .string(1, table)
        .string(2, chain)
        .nest(4, |list| build(Rule(list)));
    message
}

fn new_map(table: &str, map: &Map, id: usize) -> Message {
    let address = match map.family {
        Family::V4 => TYPE_IPV4,
        Family::V6 => TYPE_IPV6,
    };
    let mut key_type = TYPE_PROTOCOL << TYPE_BITS | TYPE_PORT;
    let mut key_length = 8;
    if map.bound {
        key_type |= address << (2 * TYPE_BITS);
        key_length += map.family.width();
    }
    let mut message = request(libc::NFT_MSG_NEWSET, CREATE);
    message
        .string(1, table)
        .string(2, map.name)
        .network_number(3, libc::NFT_SET_MAP as u32)
        .network_number(4, key_type)
        .network_number(5, key_length)
        .network_number(6, address << TYPE_BITS | TYPE_PORT)
        .network_number(7, map.family.width() + 4)
        .network_number(10, id as u32 + 1);
    message
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A port in network order, padded to a register.
fn port_word(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}
