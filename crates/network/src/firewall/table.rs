//! The requests that make up an nftables table of ours, and what all of them have in common: the
//! maps of published ports. Numbers are attribute kinds of `linux/netfilter/nf_tables.h`.
//!
//! ```text
//! map ports_v4, ports_v6               proto . port           : address . port
//! map bound_ports_v4, bound_ports_v6   address . proto . port : address . port
//! ```

use std::hash::Hash;
use std::net::IpAddr;

use super::expression::{Family, R1, R2, Rule, Verdict, word};
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
const TYPE_INTERFACE: u32 = 41;
const TYPE_BITS: u32 = 6;

/// Tells the nft tool that a name's bytes are in the host's order (`NFTNL_UDATA_SET_KEYBYTEORDER`, its
/// length, `BYTEORDER_HOST_ENDIAN`); without it, it lists them as empty.
const HOST_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];

/// An interface name in a key.
const NAME_WIDTH: u32 = 16;
/// `NFT_SET_ELEM_INTERVAL_END`: the element is the first address behind a range.
const INTERVAL_END: u32 = 1;

/// Elements in one message: an attribute's length has 16 bits.
const CHUNK: usize = 400;

/// A table: which sets it has, and rules that are the same however much is in them.
pub(crate) trait Layout {
    /// Whose entries are added and removed together.
    type Owner: Clone + Eq + Hash;

    fn table(&self) -> String;

    /// The maps of `PORT_MAPS` first.
    fn sets(&self) -> &'static [Set];

    fn rules(&self, table: &str, out: &mut Vec<Message>);
}

/// A set or a map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    pub name: &'static str,
    pub holds: Holds,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Holds {
    /// A map of published ports; `bound` has the host's address in its key.
    Ports { family: Family, bound: bool },
    /// The names of interfaces.
    Interfaces,
    /// An interface that a packet came by, and the one that it leaves by.
    InterfacePairs,
    /// Ranges of addresses.
    Subnets(Family),
}

pub(super) const PORT_MAPS: [Set; 4] = [
    port_map("ports_v4", Family::V4, false),
    port_map("ports_v6", Family::V6, false),
    port_map("bound_ports_v4", Family::V4, true),
    port_map("bound_ports_v6", Family::V6, true),
];

pub(super) const fn port_map(name: &'static str, family: Family, bound: bool) -> Set {
    let holds = Holds::Ports { family, bound };
    Set { name, holds }
}

/// What a set of a layout holds: one element, or the two ends of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The set's index among the layout's.
    set: usize,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    /// Of a range: the first address behind it.
    end: Option<Vec<u8>>,
}

impl Entry {
    pub(super) fn interface(set: usize, name: &str) -> Self {
        Self::plain(set, super::expression::interface(name).to_vec())
    }

    pub(super) fn pair(set: usize, from: &str, to: &str) -> Self {
        let names = [from, to].map(super::expression::interface);
        Self::plain(set, names.concat())
    }

    pub(super) fn subnet(set: usize, subnet: Subnet) -> Self {
        let behind = subnet.nth(subnet.last_offset()).and_then(following);
        Self {
            end: behind.map(octets),
            ..Self::plain(set, octets(subnet.base()))
        }
    }

    fn plain(set: usize, key: Vec<u8>) -> Self {
        Self {
            set,
            key,
            value: None,
            end: None,
        }
    }

    pub(super) fn set(&self) -> usize {
        self.set
    }

    /// How many elements the kernel counts.
    pub(super) fn elements(&self) -> usize {
        1 + usize::from(self.end.is_some())
    }

    fn write(&self, list: &mut Message) {
        list.nest(1, |item| {
            item.nest(1, |key| _ = key.bytes(1, &self.key));
            if let Some(value) = &self.value {
                item.nest(2, |data| _ = data.bytes(1, value));
            }
        });
        if let Some(end) = &self.end {
            list.nest(1, |item| {
                item.nest(1, |key| _ = key.bytes(1, end))
                    .network_number(3, INTERVAL_END);
            });
        }
    }
}

impl From<&Element> for Entry {
    fn from(element: &Element) -> Self {
        Self {
            value: Some(element.value()),
            ..Self::plain(element.map(), element.key())
        }
    }
}

fn following(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address)
            .checked_add(1)
            .map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(address) => u128::from(address)
            .checked_add(1)
            .map(|next| IpAddr::V6(next.into())),
    }
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
    /// The map's index in `PORT_MAPS`.
    fn map(&self) -> usize {
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

/// Everything: whatever the table held before is replaced in the same transaction. Returns how many
/// rules there are with it.
pub(super) fn install(layout: &impl Layout) -> (Vec<Message>, usize) {
    let table = layout.table();
    let mut requests = vec![new_table(&table), delete_table(&table), new_table(&table)];
    requests.extend(
        layout
            .sets()
            .iter()
            .enumerate()
            .map(|(at, set)| new_set(&table, set, at)),
    );
    requests.push(chain(&table, "host_ports", None));
    for (name, hook) in HOOKS {
        requests.push(chain(&table, name, Some(*hook)));
    }
    let before = requests.len();
    layout.rules(&table, &mut requests);
    let rules = requests.len() - before;
    (requests, rules)
}

/// The requests that add entries.
pub(super) fn add<'a>(
    layout: &impl Layout,
    entries: impl Iterator<Item = &'a Entry> + Clone,
) -> Vec<Message> {
    change(layout, libc::NFT_MSG_NEWSETELEM, CREATE, entries)
}

pub(super) fn delete<'a>(
    layout: &impl Layout,
    entries: impl Iterator<Item = &'a Entry> + Clone,
) -> Vec<Message> {
    change(layout, libc::NFT_MSG_DELSETELEM, 0, entries)
}

fn change<'a>(
    layout: &impl Layout,
    kind: libc::c_int,
    flags: u16,
    entries: impl Iterator<Item = &'a Entry> + Clone,
) -> Vec<Message> {
    let table = layout.table();
    let mut requests = Vec::new();
    for (index, set) in layout.sets().iter().enumerate() {
        let of_set: Vec<_> = entries.clone().filter(|entry| entry.set == index).collect();
        for chunk in of_set.chunks(CHUNK) {
            let mut message = request(kind, flags);
            message
                .string(1, &table)
                .string(2, set.name)
                .nest(3, |list| chunk.iter().for_each(|entry| entry.write(list)));
            requests.push(message);
        }
    }
    requests
}

pub(super) fn list_rules(table: &str) -> Message {
    let mut message = request(libc::NFT_MSG_GETRULE, libc::NLM_F_DUMP as u16);
    message.string(1, table);
    message
}

pub(super) fn list_elements(table: &str, set: &Set) -> Message {
    let mut message = request(libc::NFT_MSG_GETSETELEM, libc::NLM_F_DUMP as u16);
    message.string(1, table).string(2, set.name);
    message
}

/// The rules by which what arrives for this host is led by the maps of published ports.
pub(super) fn lead_to_ports(table: &str, out: &mut Vec<Message>) {
    for chain in ["prerouting", "output"] {
        out.push(rule(table, chain, &|rule| {
            _ = rule.for_this_host().verdict(Verdict::Goto("host_ports"))
        }));
    }
    // The address's own mapping is more particular than the one for all addresses.
    for (name, family, bound) in [
        ("bound_ports_v4", Family::V4, true),
        ("ports_v4", Family::V4, false),
        ("bound_ports_v6", Family::V6, true),
        ("ports_v6", Family::V6, false),
    ] {
        out.push(rule(table, "host_ports", &|rule| {
            translate(rule, name, family, bound);
        }));
    }
}

/// The hook, the priority (lower runs earlier) and the type of a base chain.
pub(super) type Hook = (libc::c_int, i32, &'static str);

const HOOKS: &[(&str, Hook)] = &[
    ("guard", (libc::NF_INET_PRE_ROUTING, -300, "filter")),
    ("prerouting", (libc::NF_INET_PRE_ROUTING, -100, "nat")),
    ("output", (libc::NF_INET_LOCAL_OUT, -100, "nat")),
    ("postrouting", (libc::NF_INET_POST_ROUTING, 100, "nat")),
    ("forward", (libc::NF_INET_FORWARD, 0, "filter")),
];

/// The lookup key is built in registers side by side, each field padded to four bytes.
fn translate(rule: Rule<'_>, map: &str, family: Family, bound: bool) {
    let rule = rule.family(family);
    let rule = match (bound, family) {
        (true, Family::V4) => rule.destination(family, R1).protocol(word(1)).port(word(2)),
        (true, Family::V6) => rule.destination(family, R1).protocol(R2).port(word(5)),
        (false, _) => rule.protocol(R1).port(word(1)),
    };
    rule.map(map).dnat(family, R1, word(family.width() / 4));
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

pub(super) fn new_table(name: &str) -> Message {
    let mut message = request(libc::NFT_MSG_NEWTABLE, CREATE);
    message.string(1, name);
    message
}

pub(super) fn delete_table(name: &str) -> Message {
    let mut message = request(libc::NFT_MSG_DELTABLE, 0);
    message.string(1, name);
    message
}

pub(super) fn chain(table: &str, name: &str, hook: Option<Hook>) -> Message {
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

pub(super) fn rule(table: &str, chain: &str, build: &dyn Fn(Rule<'_>)) -> Message {
    let mut message = request(libc::NFT_MSG_NEWRULE, APPEND);
    message
        .string(1, table)
        .string(2, chain)
        .nest(4, |list| build(Rule(list)));
    message
}

fn new_set(table: &str, set: &Set, id: usize) -> Message {
    let (flags, key_type, key_length) = match set.holds {
        Holds::Ports { family, bound } => {
            let plain = TYPE_PROTOCOL << TYPE_BITS | TYPE_PORT;
            let (head, length) = match bound {
                true => (address_type(family) << (2 * TYPE_BITS), family.width()),
                false => (0, 0),
            };
            (libc::NFT_SET_MAP, head | plain, length + 8)
        }
        Holds::Interfaces => (0, TYPE_INTERFACE, NAME_WIDTH),
        Holds::InterfacePairs => (
            0,
            TYPE_INTERFACE << TYPE_BITS | TYPE_INTERFACE,
            2 * NAME_WIDTH,
        ),
        Holds::Subnets(family) => (libc::NFT_SET_INTERVAL, address_type(family), family.width()),
    };
    let mut message = request(libc::NFT_MSG_NEWSET, CREATE);
    message
        .string(1, table)
        .string(2, set.name)
        .network_number(3, flags as u32)
        .network_number(4, key_type)
        .network_number(5, key_length);
    if let Holds::Ports { family, .. } = set.holds {
        message
            .network_number(6, address_type(family) << TYPE_BITS | TYPE_PORT)
            .network_number(7, family.width() + 4);
    }
    message.network_number(10, id as u32 + 1);
    if let Holds::Interfaces = set.holds {
        message.bytes(13, &HOST_ORDER);
    }
    message
}

fn address_type(family: Family) -> u32 {
    match family {
        Family::V4 => TYPE_IPV4,
        Family::V6 => TYPE_IPV6,
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
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
