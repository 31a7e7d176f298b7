//! The table of the pods' bridge.
//!
//! ```text
//! table inet berth_<bridge>
//!   map …               the published ports, see `table`
//!   chain guard         prerouting, raw      pods must not reach 127.0.0.0/8 of the host
//!   chain prerouting    dstnat               to this host: goto host_ports
//!   chain output        dstnat               to this host: goto host_ports
//!   chain host_ports                         the four maps
//!   chain postrouting   srcnat               localhost, hairpin, and pods to the world
//!   chain forward       filter               what crosses the bridge is accepted
//! ```

use berth_names::SandboxId;

use super::expression::{Compare, Family, Rule, Verdict};
use super::table::{Layout, PORT_MAPS, Set, lead_to_ports, octets, rule};
use crate::netlink::wire::Message;
use crate::subnet::Subnet;

/// What the rules depend on.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub bridge: String,
    pub subnets: Vec<Subnet>,
    pub masquerade: bool,
}

impl Layout for Plan {
    type Owner = SandboxId;

    fn table(&self) -> String {
        format!("berth_{}", self.bridge)
    }

    fn sets(&self) -> &'static [Set] {
        &PORT_MAPS
    }

    fn rules(&self, table: &str, out: &mut Vec<Message>) {
        let bridge = self.bridge.as_str();
        lead_to_ports(table, out);
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
}
