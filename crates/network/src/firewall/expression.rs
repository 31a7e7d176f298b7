//! nftables' machine instructions, as the kernel takes them. A rule is a list of them that runs on
//! registers; the first comparison that fails ends it. `nft --debug=netlink` prints the same.

use crate::netlink::wire::Message;

/// The registers used here: 16-byte register 1 is also the 4-byte registers 8 to 11, and so on.
pub(super) const R1: u32 = libc::NFT_REG_1 as u32;
pub(super) const R2: u32 = libc::NFT_REG_2 as u32;
/// The 4-byte register with the number `n`, counted from the start of `R1`.
pub(super) const fn word(n: u32) -> u32 {
    libc::NFT_REG32_00 as u32 + n
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::V4 => libc::NFPROTO_IPV4 as u8,
            Self::V6 => libc::NFPROTO_IPV6 as u8,
        }
    }

    /// Offset of the source address in the IP header; the destination follows it.
    fn source_offset(self) -> u32 {
        match self {
            Self::V4 => 12,
            Self::V6 => 8,
        }
    }

    pub(super) fn width(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Goto(&'static str),
}

/// Whether what is looked up has to be in a set.
#[derive(Debug, Clone, Copy)]
pub(super) enum Member {
    Of,
    NotOf,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Compare {
    Equal,
    Different,
}

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DESTINATION: u32 = 1 << 1;
const CONNTRACK_DNAT: u32 = 1 << 5;
/// Bits of the states "established" and "related".
const CONNTRACK_FOLLOWING: u32 = 1 << 1 | 1 << 2;
const LOOKUP_INVERTED: u32 = 1;
const NAT_DESTINATION: u32 = 1;

/// One rule's expressions, appended in order.
pub(super) struct Rule<'a>(pub &'a mut Message);

impl Rule<'_> {
    fn expression(self, name: &str, fill: impl FnOnce(&mut Message)) -> Self {
        self.0.nest(LIST_ELEMENT, |element| {
            element
                .string(EXPRESSION_NAME, name)
                .nest(EXPRESSION_DATA, fill);
        });
        self
    }

    fn meta(self, key: libc::c_int, register: u32) -> Self {
        self.expression("meta", |e| {
            e.network_number(1, register).network_number(2, key as u32);
        })
    }

    fn compare(self, how: Compare, register: u32, value: &[u8]) -> Self {
        let operation = match how {
            Compare::Equal => libc::NFT_CMP_EQ,
            Compare::Different => libc::NFT_CMP_NEQ,
        };
        self.expression("cmp", |e| {
            e.network_number(1, register)
                .network_number(2, operation as u32)
                .nest(3, |data| _ = data.bytes(DATA_VALUE, value));
        })
    }

    fn payload(self, base: libc::c_int, offset: u32, length: u32, register: u32) -> Self {
        self.expression("payload", |e| {
            e.network_number(1, register)
                .network_number(2, base as u32)
                .network_number(3, offset)
                .network_number(4, length);
        })
    }

    fn mask(self, register: u32, mask: &[u8]) -> Self {
        self.expression("bitwise", |e| {
            e.network_number(1, register)
                .network_number(2, register)
                .network_number(3, mask.len() as u32)
                .nest(4, |data| _ = data.bytes(DATA_VALUE, mask))
                .nest(5, |data| _ = data.bytes(DATA_VALUE, &vec![0; mask.len()]));
        })
    }

    pub(super) fn family(self, family: Family) -> Self {
        self.meta(libc::NFT_META_NFPROTO, R1)
            .compare(Compare::Equal, R1, &[family.number()])
    }

    pub(super) fn input_interface(self, how: Compare, name: &str) -> Self {
        self.meta(libc::NFT_META_IIFNAME, R1)
            .compare(how, R1, &interface(name))
    }

    pub(super) fn output_interface(self, how: Compare, name: &str) -> Self {
        self.meta(libc::NFT_META_OIFNAME, R1)
            .compare(how, R1, &interface(name))
    }

    /// Compares the packet's source with a subnet of `family`, which `family` must have checked.
    pub(super) fn source_in(self, how: Compare, family: Family, base: &[u8], prefix: u8) -> Self {
        self.address_in(how, family, family.source_offset(), base, prefix)
    }

    pub(super) fn destination_in(
        self,
        how: Compare,
        family: Family,
        base: &[u8],
        prefix: u8,
    ) -> Self {
        self.address_in(
            how,
            family,
            family.source_offset() + family.width(),
            base,
            prefix,
        )
    }

    fn address_in(self, how: Compare, family: Family, at: u32, base: &[u8], prefix: u8) -> Self {
        let loaded = self.payload(libc::NFT_PAYLOAD_NETWORK_HEADER, at, family.width(), R1);
        let mask: Vec<u8> = (0..family.width())
            .map(|byte| {
                let bits = u32::from(prefix).saturating_sub(byte * 8).min(8);
                !0xffu8.checked_shr(bits).unwrap_or(0)
            })
            .collect();
        loaded.mask(R1, &mask).compare(how, R1, base)
    }

    pub(super) fn destination(self, family: Family, register: u32) -> Self {
        let at = family.source_offset() + family.width();
        self.payload(
            libc::NFT_PAYLOAD_NETWORK_HEADER,
            at,
            family.width(),
            register,
        )
    }

    pub(super) fn protocol(self, register: u32) -> Self {
        self.meta(libc::NFT_META_L4PROTO, register)
    }

    /// The destination port, at the same place in TCP, UDP and SCTP.
    pub(super) fn port(self, register: u32) -> Self {
        self.payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, register)
    }

    /// Looks up what lies from `R1` on, and puts what is found there.
    pub(super) fn map(self, name: &str) -> Self {
        self.expression("lookup", |e| {
            e.string(1, name)
                .network_number(2, R1)
                .network_number(3, R1);
        })
    }

    fn lookup(self, how: Member, set: &str) -> Self {
        self.expression("lookup", |e| {
            e.string(1, set).network_number(2, R1);
            if matches!(how, Member::NotOf) {
                e.network_number(5, LOOKUP_INVERTED);
            }
        })
    }

    /// The interface that the packet came by is in a set of names.
    pub(super) fn input_in(self, how: Member, set: &str) -> Self {
        self.meta(libc::NFT_META_IIFNAME, R1).lookup(how, set)
    }

    pub(super) fn output_in(self, how: Member, set: &str) -> Self {
        self.meta(libc::NFT_META_OIFNAME, R1).lookup(how, set)
    }

    /// The interfaces by which the packet came and goes are a pair of the set.
    pub(super) fn crossing_in(self, set: &str) -> Self {
        self.meta(libc::NFT_META_IIFNAME, R1)
            .meta(libc::NFT_META_OIFNAME, R2)
            .lookup(Member::Of, set)
    }

    /// The packet's source is in a set of subnets of `family`, which `family` must have checked.
    pub(super) fn source_of(self, family: Family, set: &str) -> Self {
        let at = family.source_offset();
        self.payload(libc::NFT_PAYLOAD_NETWORK_HEADER, at, family.width(), R1)
            .lookup(Member::Of, set)
    }

    pub(super) fn protocol_equal(self, protocol: u8) -> Self {
        self.protocol(R1).compare(Compare::Equal, R1, &[protocol])
    }

    pub(super) fn port_equal(self, port: u16) -> Self {
        self.port(R1)
            .compare(Compare::Equal, R1, &port.to_be_bytes())
    }

    /// Puts a value into a register.
    pub(super) fn immediate(self, register: u32, value: &[u8]) -> Self {
        self.expression("immediate", |e| {
            e.network_number(1, register)
                .nest(2, |data| _ = data.bytes(DATA_VALUE, value));
        })
    }

    pub(super) fn dnat(self, family: Family, address: u32, port: u32) -> Self {
        self.expression("nat", |e| {
            e.network_number(1, NAT_DESTINATION)
                .network_number(2, family.number().into())
                .network_number(3, address)
                .network_number(5, port);
        })
    }

    pub(super) fn masquerade(self) -> Self {
        self.expression("masq", |_| {})
    }

    /// The packet is for this host, by any of its addresses.
    pub(super) fn for_this_host(self) -> Self {
        self.expression("fib", |e| {
            e.network_number(1, R1)
                .network_number(2, FIB_RESULT_ADDRTYPE)
                .network_number(3, FIB_DESTINATION);
        })
        .compare(
            Compare::Equal,
            R1,
            &u32::from(libc::RTN_LOCAL).to_ne_bytes(),
        )
    }

    /// The connection's destination was rewritten.
    pub(super) fn was_dnatted(self) -> Self {
        self.expression("ct", |e| {
            e.network_number(1, R1)
                .network_number(2, libc::NFT_CT_STATUS as u32);
        })
        .mask(R1, &CONNTRACK_DNAT.to_ne_bytes())
        .compare(Compare::Different, R1, &[0; 4])
    }

    /// The packet belongs to a connection that is there, or to one that is related to it.
    pub(super) fn established(self) -> Self {
        self.expression("ct", |e| {
            e.network_number(1, R1)
                .network_number(2, libc::NFT_CT_STATE as u32);
        })
        .mask(R1, &CONNTRACK_FOLLOWING.to_ne_bytes())
        .compare(Compare::Different, R1, &[0; 4])
    }

    pub(super) fn verdict(self, verdict: Verdict) -> Self {
        self.expression("immediate", |e| {
            e.network_number(1, libc::NFT_REG_VERDICT as u32)
                .nest(2, |data| {
                    data.nest(DATA_VERDICT, |value| {
                        match verdict {
                            Verdict::Accept => value.network_number(1, libc::NF_ACCEPT as u32),
                            Verdict::Drop => value.network_number(1, libc::NF_DROP as u32),
                            Verdict::Goto(chain) => value
                                .network_number(1, libc::NFT_GOTO as u32)
                                .string(2, chain),
                        };
                    });
                });
        })
    }
}

/// An interface name as the kernel compares it: 16 bytes, padded with zeros.
pub(super) fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}
