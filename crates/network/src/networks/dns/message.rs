//! The wire format (RFC 1035, 6891), as much of it as a resolver needs that answers few questions
//! itself and hands all others on as they came: their types, options and extensions are for whoever
//! answers them.

use std::net::IpAddr;

const HEADER: usize = 12;
const LONGEST_NAME: usize = 255;
const LONGEST_LABEL: usize = 63;
/// More additional records than any query has.
const MOST_RECORDS: u16 = 16;

const RESPONSE: u16 = 1 << 15;
const OPCODE: u16 = 0xf << 11;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;

pub(super) const A: u16 = 1;
pub(super) const PTR: u16 = 12;
pub(super) const AAAA: u16 = 28;
const OPT: u16 = 41;
pub(super) const IN: u16 = 1;

/// What anybody can take in one datagram, and what we say that we take (DNS flag day 2020).
const LEAST_SIZE: usize = 512;
const OUR_SIZE: u16 = 1232;
/// Local answers beyond this go by TCP, whatever a client says.
const MOST_SIZE: usize = 4096;
/// Seconds that an answer may be remembered.
const LIFETIME: u32 = 600;
/// The question's name, by its place behind the header.
const NAME_OF_QUESTION: [u8; 2] = [0xc0, HEADER as u8];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NotImplemented = 4,
}

/// One question, borrowed from the message that it came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query<'a> {
    bytes: &'a [u8],
    flags: u16,
    /// Where the question ends.
    end: usize,
    /// In lower case, without the last dot; `None` for labels that are no text.
    pub name: Option<String>,
    pub kind: u16,
    pub class: u16,
    /// The size of datagrams that the client takes, if it speaks of extensions.
    edns: Option<u16>,
}

/// Why there is no question in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Not even worth an answer: too short, or an answer itself.
    Ignored,
    /// To be answered so.
    Refused(Code),
}

pub(super) fn parse(bytes: &[u8]) -> Result<Query<'_>, Unreadable> {
    let flags = match (u16_at(bytes, 2), bytes.len() >= HEADER) {
        (Some(flags), true) if flags & RESPONSE == 0 => flags,
        _ => return Err(Unreadable::Ignored),
    };
    if flags & OPCODE != 0 {
        return Err(Unreadable::Refused(Code::NotImplemented));
    }
    let malformed = Unreadable::Refused(Code::FormatError);
    let counts = [4, 6, 8, 10].map(|at| u16_at(bytes, at).unwrap_or(u16::MAX));
    let [1, 0, 0, additional] = counts else {
        return Err(malformed);
    };
    let (name, at) = name(bytes, HEADER).ok_or(malformed)?;
    let kind = u16_at(bytes, at).ok_or(malformed)?;
    let class = u16_at(bytes, at + 2).ok_or(malformed)?;
    let end = at + 4;
    let edns = extensions(bytes, end, additional).ok_or(malformed)?;
    Ok(Query {
        bytes,
        flags,
        end,
        name,
        kind,
        class,
        edns,
    })
}

/// Reads a name that is written out, as a question's is: nothing stands before it to point to.
fn name(bytes: &[u8], mut at: usize) -> Option<(Option<String>, usize)> {
    let start = at;
    let mut text = Some(String::new());
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length > LONGEST_LABEL || at + 1 + length - start > LONGEST_NAME {
            return None;
        }
        let label = bytes.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            return Some((text, at));
        }
        let plain = label.iter().all(|b| b.is_ascii_graphic() && *b != b'.');
        text = text.filter(|_| plain).map(|mut text| {
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
            text
        });
    }
}

/// Looks for the OPT record; `None` if the records are malformed.
fn extensions(bytes: &[u8], mut at: usize, count: u16) -> Option<Option<u16>> {
    if count > MOST_RECORDS {
        return None;
    }
    let mut found = None;
    for _ in 0..count {
        at = behind_name(bytes, at)?;
        let (kind, class) = (u16_at(bytes, at)?, u16_at(bytes, at + 2)?);
        let length = usize::from(u16_at(bytes, at + 8)?);
        at += 10 + length;
        if at > bytes.len() {
            return None;
        }
        if kind == OPT {
            found = Some(class);
        }
    }
    Some(found)
}

fn behind_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length if usize::from(length) <= LONGEST_LABEL => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

impl Query<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Whether `answer` belongs to the question as it was sent with `id`.
    pub(super) fn answered_by(&self, answer: &[u8], id: u16) -> bool {
        u16_at(answer, 0) == Some(id)
            && u16_at(answer, 2).is_some_and(|flags| flags & RESPONSE != 0)
            && u16_at(answer, 4) == Some(1)
            && answer.get(HEADER..self.end).is_some_and(|question| {
                question.eq_ignore_ascii_case(&self.bytes[HEADER..self.end])
            })
    }

    /// The reply with these records; in a datagram only as far as the client takes it.
    pub(super) fn reply(&self, code: Code, records: &[Record], datagram: bool) -> Vec<u8> {
        let whole = self.write(code, records, 0);
        let limit = match datagram {
            true => usize::from(self.edns.unwrap_or(0)).clamp(LEAST_SIZE, MOST_SIZE),
            false => usize::from(u16::MAX),
        };
        if whole.len() <= limit {
            return whole;
        }
        self.write(code, &[], TRUNCATED)
    }

    fn write(&self, code: Code, records: &[Record], more: u16) -> Vec<u8> {
        let recursion = self.flags & RECURSION_DESIRED;
        let flags = RESPONSE | AUTHORITATIVE | RECURSION_AVAILABLE | recursion | more | code as u16;
        let counts = [1, records.len() as u16, 0, u16::from(self.edns.is_some())];
        let mut out = self.bytes[..2].to_vec();
        out.extend_from_slice(&flags.to_be_bytes());
        counts
            .iter()
            .for_each(|n| out.extend_from_slice(&n.to_be_bytes()));
        out.extend_from_slice(&self.bytes[HEADER..self.end]);
        records.iter().for_each(|record| record.write(&mut out));
        if self.edns.is_some() {
            out.push(0);
            out.extend_from_slice(&OPT.to_be_bytes());
            out.extend_from_slice(&OUR_SIZE.to_be_bytes());
            out.extend_from_slice(&[0; 6]);
        }
        out
    }
}

/// The answer to what cannot be read: its header alone.
pub(super) fn refusal(bytes: &[u8], code: Code) -> Vec<u8> {
    let flags = u16_at(bytes, 2).unwrap_or(0) & (OPCODE | RECURSION_DESIRED);
    let mut out = bytes[..2].to_vec();
    out.extend_from_slice(&(RESPONSE | flags | code as u16).to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out
}

/// The code of somebody else's answer.
pub(super) fn code_of(answer: &[u8]) -> u16 {
    u16_at(answer, 2).unwrap_or(0) & 0xf
}

pub(super) fn set_id(message: &mut [u8], id: [u8; 2]) {
    if let Some(head) = message.get_mut(..2) {
        head.copy_from_slice(&id);
    }
}

/// One record of an answer, about the question's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Address(IpAddr),
    /// The name of an address.
    Name(String),
}

impl Record {
    fn write(&self, out: &mut Vec<u8>) {
        let (kind, data) = match self {
            Self::Address(IpAddr::V4(address)) => (A, address.octets().to_vec()),
            Self::Address(IpAddr::V6(address)) => (AAAA, address.octets().to_vec()),
            Self::Name(name) => (PTR, labels(name)),
        };
        out.extend_from_slice(&NAME_OF_QUESTION);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&IN.to_be_bytes());
        out.extend_from_slice(&LIFETIME.to_be_bytes());
        out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        out.extend_from_slice(&data);
    }
}

/// A name as labels; what is too long for one is cut.
fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(LONGEST_LABEL)];
        if out.len() + label.len() + 2 > LONGEST_NAME {
            break;
        }
        out.push(label.len() as u8);
        out.extend_from_slice(label);
    }
    out.push(0);
    out
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` asks about.
pub(super) fn address_asked(name: &str) -> Option<IpAddr> {
    if let Some(reversed) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0u8; 4];
        let mut parts = reversed.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then(|| octets.into());
    }
    let mut octets = [0u8; 16];
    let mut parts = name.strip_suffix(".ip6.arpa")?.split('.');
    for octet in octets.iter_mut().rev() {
        let mut digit = || u8::from_str_radix(parts.next().filter(|p| p.len() == 1)?, 16).ok();
        let (low, high) = (digit()?, digit()?);
        *octet = high << 4 | low;
    }
    parts.next().is_none().then(|| octets.into())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A question as a client sends it.
    pub(crate) fn question(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
        let mut out = vec![
            0xab,
            0xcd,
            1,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            u8::from(edns.is_some()),
        ];
        out.extend(labels(name));
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&IN.to_be_bytes());
        if let Some(size) = edns {
            out.extend_from_slice(&[0, 0, 41]);
            out.extend_from_slice(&size.to_be_bytes());
            out.extend_from_slice(&[0; 6]);
        }
        out
    }

    #[test]
    fn a_question_is_read_whatever_its_case_and_type() {
        for (name, kind, edns) in [
            ("WEB", A, None),
            ("a.b.c", 65, Some(1232)),
            ("", 2, Some(0)),
        ] {
            let bytes = question(name, kind, edns);
            let query = parse(&bytes).unwrap();
            assert_eq!(query.name.as_deref(), Some(name.to_lowercase().as_str()));
            assert_eq!((query.kind, query.class, query.edns), (kind, IN, edns));
        }
        let mut bytes = question("abc", A, None);
        bytes[14] = 0xff;
        assert_eq!(parse(&bytes).unwrap().name, None);
    }

    #[test]
    fn no_bytes_whatsoever_bring_the_parser_down() {
        let whole = question("some.name.example", AAAA, Some(4096));
        for length in 0..whole.len() {
            assert!(
                parse(&whole[..length]).is_err(),
                "{length} bytes were taken"
            );
        }
        // Every byte in turn gets values that lengths, counts and pointers are made of.
        for at in 0..whole.len() {
            for value in [0, 1, 0x3f, 0x40, 0x80, 0xc0, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                match parse(&bytes) {
                    Ok(query) => _ = query.reply(Code::ServerFailure, &[], true),
                    Err(Unreadable::Refused(code)) => _ = refusal(&bytes, code),
                    Err(Unreadable::Ignored) => {}
                }
            }
        }
        let long = ["x".repeat(60).as_str(); 5].join(".");
        let mut endless = question("", A, None);
        endless.truncate(HEADER);
        (0..5).for_each(|_| endless.extend([&[60][..], &[b'x'; 60]].concat()));
        endless.extend([0, 0, 1, 0, 1]);
        assert!(
            parse(&endless).is_err(),
            "{} characters were taken",
            long.len()
        );
    }

    #[test]
    fn answers_are_ignored_and_what_is_not_a_query_is_refused() {
        let mut bytes = question("a", A, None);
        bytes[2] |= 0x80;
        assert_eq!(parse(&bytes), Err(Unreadable::Ignored));
        let mut bytes = question("a", A, None);
        bytes[2] = 0x28;
        assert_eq!(
            parse(&bytes),
            Err(Unreadable::Refused(Code::NotImplemented))
        );
        bytes[2] = 1;
        bytes[5] = 2;
        assert_eq!(parse(&bytes), Err(Unreadable::Refused(Code::FormatError)));
        assert_eq!(
            refusal(&bytes, Code::FormatError)[..4],
            [0xab, 0xcd, 0x81, 1]
        );
    }

    #[test]
    fn a_reply_fits_the_client_or_says_that_it_does_not() {
        let addresses: Vec<_> = (0..100u8)
            .map(|n| Record::Address(IpAddr::from([10, 0, 0, n])))
            .collect();
        for (edns, datagram, truncated) in [
            (None, true, true),
            (Some(4096), true, false),
            (Some(100), true, true),
            (None, false, false),
        ] {
            let bytes = question("web", A, edns);
            let reply = parse(&bytes)
                .unwrap()
                .reply(Code::NoError, &addresses, datagram);
            assert_eq!(reply[2] & 2 != 0, truncated, "{edns:?} {datagram}");
            assert_eq!(reply[7] == 100, !truncated);
            assert!(!datagram || reply.len() <= usize::from(edns.unwrap_or(0)).max(512));
            assert_eq!(reply[11], u8::from(edns.is_some()));
        }
    }

    #[test]
    fn only_the_answer_to_the_very_question_is_taken() {
        let bytes = question("web", A, None);
        let query = parse(&bytes).unwrap();
        let mut answer = query.reply(Code::NoError, &[], true);
        assert!(query.answered_by(&answer, 0xabcd));
        assert!(!query.answered_by(&answer, 0xabce));
        answer[13] = b'W';
        assert!(query.answered_by(&answer, 0xabcd));
        answer[13] = b'x';
        assert!(!query.answered_by(&answer, 0xabcd));
        assert!(!query.answered_by(&bytes, 0xabcd) && !query.answered_by(&[], 0xabcd));
    }

    #[test]
    fn reversed_names_are_addresses() {
        let v6 = format!(
            "{}.ip6.arpa",
            ["1", "0"]
                .into_iter()
                .chain(["0"; 28])
                .chain(["d", "f"])
                .collect::<Vec<_>>()
                .join(".")
        );
        for (name, address) in [
            ("2.0.18.172.in-addr.arpa", Some("172.18.0.2")),
            (v6.as_str(), Some("fd00::1")),
            ("0.18.172.in-addr.arpa", None),
            ("1.2.0.18.172.in-addr.arpa", None),
            ("256.0.18.172.in-addr.arpa", None),
            ("1.ip6.arpa", None),
            ("web", None),
        ] {
            let wanted = address.map(|text| text.parse::<IpAddr>().unwrap());
            assert_eq!(address_asked(name), wanted, "{name}");
        }
    }
}
