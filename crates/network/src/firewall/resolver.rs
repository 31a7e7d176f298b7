//! In a container's namespace: what is asked of the resolver's port 53 goes to the ports that its
//! sockets have. They are not 53 themselves, for a name server of the container's own may want to
//! bind that on every address.
//!
//! ```text
//! table inet berth_resolver
//!   chain output  dstnat   127.0.0.11 port 53, UDP and TCP
//! ```

use std::net::Ipv4Addr;

use super::expression::{Compare, Family, R1, R2};
use super::table;
use crate::error::{Error, Result};
use crate::netlink::Channel;
use crate::pod::Protocol;

const TABLE: &str = "berth_resolver";
const CHAIN: &str = "output";
const PORT: u16 = 53;

/// Redirects `address` in the calling thread's network namespace; what an earlier daemon redirected
/// is replaced.
pub(crate) fn redirect_resolver(address: Ipv4Addr, ports: [(Protocol, u16); 2]) -> Result<()> {
    let mut channel = Channel::open(libc::NETLINK_NETFILTER).map_err(|source| Error::Socket {
        protocol: "netfilter",
        source,
    })?;
    let hook = (libc::NF_INET_LOCAL_OUT, -100, "nat");
    let mut requests = vec![
        table::new_table(TABLE),
        table::delete_table(TABLE),
        table::new_table(TABLE),
        table::chain(TABLE, CHAIN, Some(hook)),
    ];
    requests.extend(ports.map(|(protocol, port)| {
        table::rule(TABLE, CHAIN, &|rule| {
            _ = rule
                .family(Family::V4)
                .destination_in(Compare::Equal, Family::V4, &address.octets(), 32)
                .protocol_equal(protocol.number())
                .port_equal(PORT)
                .immediate(R1, &address.octets())
                .immediate(R2, &port.to_be_bytes())
                .dnat(Family::V4, R1, R2);
        })
    }));
    let (begin, end) = table::bracket();
    channel
        .batch(requests, begin, end)
        .map_err(|source| Error::Kernel {
            operation: "redirect the container's resolver",
            object: format!("nftables table inet {TABLE}"),
            source,
        })
}
