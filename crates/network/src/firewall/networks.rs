//! The table of containers' networks. A network is entries in sets, as a container's ports are: the
//! rules are the same for one network and for a hundred.
//!
//! ```text
//! table inet berth_<interface of the default network>
//!   map …                the published ports, see `table`
//!   set bridges          every network's interface
//!   set same             each of them twice: what stays on its network
//!   set mute             networks whose containers do not reach each other
//!   set internal         networks from which nothing leaves
//!   set masqueraded      networks that reach the world with the host's address
//!   set subnets_v4, _v6  the networks' subnets
//!   chain guard          prerouting, raw   containers must not reach 127.0.0.0/8 of the host
//!   chain prerouting     dstnat            to this host: goto host_ports
//!   chain output         dstnat            to this host: goto host_ports
//!   chain host_ports                       the four maps
//!   chain postrouting    srcnat            localhost, hairpin, and containers to the world
//!   chain forward        filter            networks are apart, and reached by published ports only
//! ```

use std::net::Ipv4Addr;

use berth_names::{ContainerId, NetworkId};

use super::expression::{Compare, Family, Member, Rule, Verdict};
use super::table::{Entry, Holds, Layout, PORT_MAPS, Set, lead_to_ports, rule};
use crate::netlink::wire::Message;
use crate::subnet::Subnet;

const BRIDGES: usize = 4;
const SAME: usize = 5;
const MUTE: usize = 6;
const INTERNAL: usize = 7;
const MASQUERADED: usize = 8;
const SUBNETS_V4: usize = 9;
const SUBNETS_V6: usize = 10;

static SETS: [Set; 11] = [
    PORT_MAPS[0],
    PORT_MAPS[1],
    PORT_MAPS[2],
    PORT_MAPS[3],
    set("bridges", Holds::Interfaces),
    set("same", Holds::InterfacePairs),
    set("mute", Holds::Interfaces),
    set("internal", Holds::Interfaces),
    set("masqueraded", Holds::Interfaces),
    set("subnets_v4", Holds::Subnets(Family::V4)),
    set("subnets_v6", Holds::Subnets(Family::V6)),
];

const fn set(name: &'static str, holds: Holds) -> Set {
    Set { name, holds }
}

/// Whose entries are added and removed together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Network(NetworkId),
    /// A container's published ports.
    Container(ContainerId),
}

/// The rules of all of a daemon's networks.
#[derive(Debug, Clone)]
pub(crate) struct NetworksPlan {
    pub name: String,
}

/// What of a network the rules depend on.
#[derive(Debug, Clone)]
pub(crate) struct Traits<'a> {
    pub interface: &'a str,
    pub subnets: &'a [Subnet],
    pub icc: bool,
    pub internal: bool,
    pub masquerade: bool,
}

impl Traits<'_> {
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let name = self.interface;
        let mut entries = vec![
            Entry::interface(BRIDGES, name),
            Entry::pair(SAME, name, name),
        ];
        for (set, wanted) in [
            (MUTE, !self.icc),
            (INTERNAL, self.internal),
            (MASQUERADED, self.masquerade && !self.internal),
        ] {
            if wanted {
                entries.push(Entry::interface(set, name));
            }
        }
        entries.extend(self.subnets.iter().map(|subnet| {
            let set = if subnet.is_ipv4() {
                SUBNETS_V4
            } else {
                SUBNETS_V6
            };
            Entry::subnet(set, *subnet)
        }));
        entries
    }
}

impl Layout for NetworksPlan {
    type Owner = Owner;

    fn table(&self) -> String {
        format!("berth_{}", self.name)
    }

    fn sets(&self) -> &'static [Set] {
        &SETS
    }

    fn rules(&self, table: &str, out: &mut Vec<Message>) {
        lead_to_ports(table, out);
        guard(table, out);
        translate_sources(table, out);
        keep_apart(table, out);
    }
}

/// route_localnet lets the host's own 127.0.0.1 reach published ports; this keeps it from letting
/// containers reach what listens on the host's 127.0.0.1 only.
fn guard(table: &str, out: &mut Vec<Message>) {
    let loopback = Ipv4Addr::new(127, 0, 0, 0).octets();
    out.push(rule(table, "guard", &|rule| {
        _ = rule
            .input_in(Member::Of, "bridges")
            .family(Family::V4)
            .destination_in(Compare::Equal, Family::V4, &loopback, 8)
            .verdict(Verdict::Drop);
    }));
}

fn translate_sources(table: &str, out: &mut Vec<Message>) {
    let mut add = |build: &dyn Fn(Rule<'_>)| out.push(rule(table, "postrouting", build));
    add(&|rule| {
        _ = rule
            .output_in(Member::Of, "bridges")
            .family(Family::V4)
            .source_in(Compare::Equal, Family::V4, &[127, 0, 0, 0], 8)
            .masquerade();
    });
    // A container that reaches one of its own network by a published port: without this the answer
    // would go straight to it, from an address that it never spoke to. By source and not by
    // interface, for where bridged packets are filtered too this hook is not told where they came in.
    for (family, set) in [(Family::V4, "subnets_v4"), (Family::V6, "subnets_v6")] {
        add(&|rule| {
            _ = rule
                .output_in(Member::Of, "bridges")
                .family(family)
                .source_of(family, set)
                .was_dnatted()
                .masquerade();
        });
    }
    add(&|rule| {
        _ = rule
            .input_in(Member::Of, "masqueraded")
            .output_in(Member::NotOf, "bridges")
            .masquerade();
    });
}

fn keep_apart(table: &str, out: &mut Vec<Message>) {
    let mut add = |build: &dyn Fn(Rule<'_>)| out.push(rule(table, "forward", build));
    // What was begun with leave goes on.
    add(&|rule| _ = rule.established().verdict(Verdict::Accept));
    // Bridged packets come by here where the host has them filtered.
    add(&|rule| {
        _ = rule
            .input_in(Member::NotOf, "mute")
            .crossing_in("same")
            .verdict(Verdict::Accept);
    });
    add(&|rule| {
        _ = rule.input_in(Member::Of, "internal").verdict(Verdict::Drop);
    });
    add(&|rule| {
        _ = rule
            .output_in(Member::Of, "internal")
            .verdict(Verdict::Drop);
    });
    // A published port is for other networks, too.
    add(&|rule| _ = rule.was_dnatted().verdict(Verdict::Accept));
    add(&|rule| _ = rule.output_in(Member::Of, "bridges").verdict(Verdict::Drop));
}
