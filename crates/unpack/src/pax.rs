//! PAX extended headers (POSIX.1-2001 "pax Interchange Format") and the keys of other tars. Pure.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use crate::error::HeaderFault;
use crate::header::MAX_ID;

/// Writers of `LIBARCHIVE.xattr` leave the padding out; readers have to take both.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// Values that take precedence over those of the entry's header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<Timestamp>,
    /// Names and values; a name appears once.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: PaxSparse,
}

/// The keys of the GNU sparse formats 0.0, 0.1 and 1.0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PaxSparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<u64>,
    pub blocks: Option<u64>,
    /// Offsets and lengths in turn.
    pub map: Vec<u64>,
}

impl PaxSparse {
    pub fn is_used(&self) -> bool {
        *self != Self::default()
    }
}

impl Pax {
    /// Parses the records of a local extended header.
    pub fn parse(data: &[u8]) -> Result<Self, HeaderFault> {
        let mut pax = Self::default();
        for record in Records(data) {
            let (key, value) = record?;
            pax.set(key, value)?;
        }
        Ok(pax)
    }

    /// Parses a global header into `self`. Tools disagree on whether global records apply to
    /// names, sizes and attributes, so those are refused there.
    pub fn merge_global(&mut self, data: &[u8]) -> Result<(), HeaderFault> {
        for record in Records(data) {
            let (key, value) = record?;
            match key {
                b"uid" | b"gid" | b"mtime" => self.set(key, value)?,
                b"path" | b"linkpath" | b"size" => return Err(HeaderFault::GlobalStructure),
                _ if [&b"GNU.sparse."[..], b"SCHILY.", b"LIBARCHIVE."]
                    .iter()
                    .any(|vendor| key.starts_with(vendor)) =>
                {
                    return Err(HeaderFault::GlobalStructure);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), HeaderFault> {
        match key {
            b"path" => self.path = path(value)?,
            b"linkpath" => self.link = path(value)?,
            b"size" => self.size = given(value, |v| decimal(v).ok_or(HeaderFault::Number("size")))?,
            b"uid" => self.uid = given(value, |v| id(v, "uid"))?,
            b"gid" => self.gid = given(value, |v| id(v, "gid"))?,
            b"mtime" => {
                let parse = |v: &[u8]| timestamp(v).ok_or(HeaderFault::Number("mtime"));
                self.mtime = given(value, parse)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name.to_vec(), value.to_vec(), true)?;
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let value = BASE64.decode(value).map_err(|_| HeaderFault::PaxRecord)?;
                    self.set_xattr(percent_decode(name)?, value, false)?;
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.set_sparse(key, value)?;
                }
            }
        }
        Ok(())
    }

    /// The plain form of an attribute takes precedence over the encoded one.
    fn set_xattr(&mut self, name: Vec<u8>, value: Vec<u8>, plain: bool) -> Result<(), HeaderFault> {
        if name.is_empty() || name.contains(&0) {
            return Err(HeaderFault::PaxRecord);
        }
        match self.xattrs.iter_mut().find(|(known, _)| *known == name) {
            Some(known) if plain => known.1 = value,
            Some(_) => {}
            None => self.xattrs.push((name, value)),
        }
        Ok(())
    }

    fn set_sparse(&mut self, key: &[u8], value: &[u8]) -> Result<(), HeaderFault> {
        let number = || decimal(value).ok_or(HeaderFault::SparseMap);
        let sparse = &mut self.sparse;
        match key {
            b"major" => sparse.major = Some(number()?),
            b"minor" => sparse.minor = Some(number()?),
            b"name" => sparse.name = path(value)?,
            b"size" | b"realsize" => sparse.real_size = Some(number()?),
            b"numblocks" => sparse.blocks = Some(number()?),
            b"offset" if sparse.map.len().is_multiple_of(2) => sparse.map.push(number()?),
            b"numbytes" if !sparse.map.len().is_multiple_of(2) => sparse.map.push(number()?),
            b"map" => {
                let numbers = value.split(|&b| b == b',').map(decimal);
                sparse.map = numbers
                    .collect::<Option<_>>()
                    .ok_or(HeaderFault::SparseMap)?;
            }
            _ => return Err(HeaderFault::SparseMap),
        }
        Ok(())
    }
}

/// Records of the form `<length> <key>=<value>\n`, the length being that of the whole record.
struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), HeaderFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record.ok_or(HeaderFault::PaxRecord))
    }
}

impl<'a> Records<'a> {
    fn record(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.0.iter().take(20).position(|&b| b == b' ')?;
        let length = usize::try_from(decimal(&self.0[..space])?).ok()?;
        let record = self.0.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&b| b == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return None;
        }
        self.0 = &self.0[length..];
        Some((key, value))
    }
}

/// An empty value takes back what was set before.
fn given<T>(
    value: &[u8],
    parse: impl FnOnce(&[u8]) -> Result<T, HeaderFault>,
) -> Result<Option<T>, HeaderFault> {
    if value.is_empty() {
        Ok(None)
    } else {
        parse(value).map(Some)
    }
}

fn path(value: &[u8]) -> Result<Option<Vec<u8>>, HeaderFault> {
    given(value, |v| {
        if v.contains(&0) {
            Err(HeaderFault::PaxRecord)
        } else {
            Ok(v.to_vec())
        }
    })
}

fn id(value: &[u8], what: &'static str) -> Result<u32, HeaderFault> {
    let id = decimal(value).filter(|&id| id <= MAX_ID);
    id.and_then(|id| u32::try_from(id).ok())
        .ok_or(HeaderFault::Number(what))
}

/// Digits only: no sign, no space.
pub(crate) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |number, &digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Decimal seconds with an optional fraction; digits beyond nanoseconds are cut off.
fn timestamp(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |&b| b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    for at in 0..9 {
        nanoseconds = nanoseconds * 10 + fraction.get(at).map_or(0, |&b| u32::from(b - b'0'));
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp {
            seconds,
            nanoseconds,
        },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanoseconds,
        },
        // Nanoseconds always count forward.
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

fn percent_decode(name: &[u8]) -> Result<Vec<u8>, HeaderFault> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            decoded.push(first);
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|&b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(HeaderFault::PaxRecord);
        };
        decoded.push((high * 16 + low) as u8);
        rest = &tail[2..];
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn times_keep_nanoseconds_and_count_forward() {
        let cases: &[(&str, Option<(i64, u32)>)] = &[
            ("0", Some((0, 0))),
            ("1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            ("1.5", Some((1, 500_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-3", Some((-3, 0))),
            ("1.", Some((1, 0))),
            ("", None),
            ("1e9", None),
            ("1.5.5", None),
            ("9223372036854775808", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(seconds, nanoseconds)| Timestamp {
                seconds,
                nanoseconds,
            });
            assert_eq!(timestamp(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        let cases: &[&[u8]] = &[
            b"x",
            b"5 a=b",
            b"5 a=b\nrest",
            b"7 a=b\n",
            b"5 ab\n\n",
            b"5 =ab\n",
            b"-6 a=b\n",
            b" 6 a=b\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"18 path=a\0b/ccccc\n",
        ];
        for case in cases {
            assert!(
                Pax::parse(case).is_err(),
                "{:?}",
                String::from_utf8_lossy(case)
            );
        }
    }

    #[test]
    fn attributes_are_read_from_both_forms() {
        let data = [
            record("LIBARCHIVE.xattr.user.a%20b", b"AQID"),
            record("LIBARCHIVE.xattr.user.both", b"AQ=="),
            record("SCHILY.xattr.user.both", b"pl\0ain\n"),
        ]
        .concat();
        let pax = Pax::parse(&data).unwrap();
        let expected: Vec<(Vec<u8>, Vec<u8>)> = vec![
            (b"user.a b".to_vec(), vec![1, 2, 3]),
            (b"user.both".to_vec(), b"pl\0ain\n".to_vec()),
        ];
        assert_eq!(pax.xattrs, expected);
    }

    #[test]
    fn global_headers_may_not_move_entries() {
        for key in [
            "path",
            "linkpath",
            "size",
            "GNU.sparse.map",
            "SCHILY.xattr.user.a",
        ] {
            let fault = Pax::default().merge_global(&record(key, b"1"));
            assert_eq!(fault, Err(HeaderFault::GlobalStructure), "{key}");
        }
        let mut pax = Pax::default();
        let data = [record("comment", b"0123abcd"), record("mtime", b"7")].concat();
        pax.merge_global(&data).unwrap();
        assert_eq!(
            pax.mtime,
            Some(Timestamp {
                seconds: 7,
                nanoseconds: 0
            })
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Pax::parse(&data);
        }

        #[test]
        fn what_is_written_is_read(value in proptest::collection::vec(1u8.., 1..300)) {
            let pax = Pax::parse(&record("path", &value)).unwrap();
            prop_assert_eq!(pax.path, Some(value));
        }
    }
}
