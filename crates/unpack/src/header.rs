//! One header block: POSIX ustar, GNU and the format before both. Pure.

use crate::error::HeaderFault;
use crate::stream::BLOCK;

/// What a header block says, before extended headers are taken into account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub typeflag: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Major and minor number; zero unless the entry is a device.
    pub device: (u32, u32),
    pub sparse: Option<OldSparse>,
}

/// The sparse map of the old GNU format, as far as the header holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OldSparse {
    pub segments: Vec<(u64, u64)>,
    pub real_size: u64,
    /// More segments follow in blocks of their own.
    pub extended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Old,
    Ustar,
    Gnu,
}

/// Largest uid or gid: the one above means "unchanged" to the kernel.
pub(crate) const MAX_ID: u64 = u32::MAX as u64 - 1;

impl Header {
    pub fn parse(block: &[u8; BLOCK]) -> Result<Self, HeaderFault> {
        verify_checksum(block)?;
        let format = match &block[257..265] {
            b"ustar\x0000" => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            // Writers disagree on the version; the magic alone makes the prefix valid.
            magic if magic.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::Old,
        };
        let typeflag = block[156];
        let device = match typeflag {
            b'3' | b'4' => (
                narrow(&block[329..337], "device major", u64::from(u32::MAX))?,
                narrow(&block[337..345], "device minor", u64::from(u32::MAX))?,
            ),
            _ => (0, 0),
        };
        let sparse = match (typeflag, format) {
            (b'S', Format::Gnu) => Some(OldSparse::parse(block)?),
            (b'S', _) => return Err(HeaderFault::UnknownType(typeflag)),
            _ => None,
        };
        Ok(Self {
            typeflag,
            name: full_name(block, format),
            link: text(&block[157..257]).to_vec(),
            mode: (number(&block[100..108], "mode")? & 0o7777) as u32,
            uid: narrow(&block[108..116], "uid", MAX_ID)?,
            gid: narrow(&block[116..124], "gid", MAX_ID)?,
            size: u64::try_from(number(&block[124..136], "size")?)
                .map_err(|_| HeaderFault::Number("size"))?,
            mtime: number(&block[136..148], "mtime")?,
            device,
            sparse,
        })
    }
}

impl OldSparse {
    fn parse(block: &[u8; BLOCK]) -> Result<Self, HeaderFault> {
        let real_size = number(&block[483..495], "real size")?;
        Ok(Self {
            segments: segments(&block[386..482])?,
            real_size: u64::try_from(real_size).map_err(|_| HeaderFault::Number("real size"))?,
            extended: block[482] != 0,
        })
    }

    /// Adds the segments of an extension block.
    pub fn extend(&mut self, block: &[u8; BLOCK]) -> Result<(), HeaderFault> {
        self.segments.extend(segments(&block[..504])?);
        self.extended = block[504] != 0;
        Ok(())
    }
}

/// Pairs of offset and length; an unused pair ends the list.
fn segments(field: &[u8]) -> Result<Vec<(u64, u64)>, HeaderFault> {
    let mut segments = Vec::new();
    for pair in field.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let offset = number(&pair[..12], "sparse offset")?;
        let length = number(&pair[12..], "sparse length")?;
        match (u64::try_from(offset), u64::try_from(length)) {
            (Ok(offset), Ok(length)) => segments.push((offset, length)),
            _ => return Err(HeaderFault::SparseMap),
        }
    }
    Ok(segments)
}

/// The sum of all bytes, those of the checksum itself taken as spaces. Some old writers
/// summed signed bytes.
fn verify_checksum(block: &[u8; BLOCK]) -> Result<(), HeaderFault> {
    let stored = number(&block[148..156], "checksum").map_err(|_| HeaderFault::Checksum)?;
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (at, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    if stored == unsigned || stored == signed {
        Ok(())
    } else {
        Err(HeaderFault::Checksum)
    }
}

fn full_name(block: &[u8; BLOCK], format: Format) -> Vec<u8> {
    let name = text(&block[..100]);
    let prefix = if format == Format::Ustar {
        text(&block[345..500])
    } else {
        &[]
    };
    if prefix.is_empty() {
        name.to_vec()
    } else {
        [prefix, b"/", name].concat()
    }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

fn narrow(field: &[u8], what: &'static str, max: u64) -> Result<u32, HeaderFault> {
    match u64::try_from(number(field, what)?) {
        Ok(value) if value <= max => u32::try_from(value).map_err(|_| HeaderFault::Number(what)),
        _ => Err(HeaderFault::Number(what)),
    }
}

/// An octal number, padded with spaces and NULs, or a big-endian two's complement number
/// marked by the highest bit (the base-256 encoding of GNU).
fn number(field: &[u8], what: &'static str) -> Result<i64, HeaderFault> {
    let fault = HeaderFault::Number(what);
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field).ok_or(fault),
        _ => octal(field).ok_or(fault),
    }
}

fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, &byte) in field.iter().enumerate() {
        let byte = match at {
            // The marker bit is no part of the number; the next one is its sign.
            0 if negative => byte | 0x80,
            0 => byte & 0x7f,
            _ => byte,
        };
        value = (value << 8) | i128::from(byte);
    }
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<i64> {
    let padding = |b: &u8| matches!(b, b' ' | 0);
    let start = field
        .iter()
        .position(|b| !padding(b))
        .unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(padding).unwrap_or(digits.len());
    if !digits[end..].iter().all(padding) {
        return None;
    }
    digits[..end]
        .iter()
        .try_fold(0i64, |value, &digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_in_every_encoding() {
        let mut large = [0u8; 12];
        large[0] = 0x80;
        large[4..].copy_from_slice(&(1u64 << 40).to_be_bytes());
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b" 644 \0\0\0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777777\0", Some(0o77777777777)),
            (&large, Some(1 << 40)),
            (&[0xff; 12], Some(-1)),
            (b"12x4567\0", None),
            (b"12 4567\0", None),
            (b"8\0", None),
            (b"-1\0", None),
            (&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], None),
            (
                &[
                    0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                ],
                None,
            ),
        ];
        for (field, value) in cases {
            assert_eq!(number(field, "x").ok(), *value, "{field:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), BLOCK), sum in any::<bool>()) {
            let mut block: [u8; BLOCK] = bytes.try_into().unwrap();
            if sum {
                block[148..156].copy_from_slice(b"        ");
                let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            if let Ok(header) = Header::parse(&block) {
                prop_assert!(header.mode <= 0o7777);
                prop_assert!(header.name.len() <= 256 && header.link.len() <= 100);
            }
        }
    }
}
