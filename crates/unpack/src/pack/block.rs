//! Headers as this crate writes them: ustar, with PAX records for what does not fit. Pure.

use crate::stream::BLOCK;

/// Bytes of a name or a link that a header block holds.
const NAME: usize = 100;
/// First values that do not fit seven and eleven octal digits.
const ID_END: u64 = 1 << 21;
const SIZE_END: u64 = 1 << 33;
/// The same for every extended header: archives of the same tree are the same.
const PAX_NAME: &[u8] = b"PaxHeaders.0/entry";

/// What an entry is, without its data.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Head<'a> {
    /// With a slash at its end if it is a directory.
    pub path: &'a [u8],
    pub link: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds since the epoch.
    pub mtime: i64,
    pub device: (u32, u32),
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

pub(crate) const FILE: u8 = b'0';
pub(crate) const HARD_LINK: u8 = b'1';
pub(crate) const SYMLINK: u8 = b'2';
pub(crate) const CHARACTER_DEVICE: u8 = b'3';
pub(crate) const BLOCK_DEVICE: u8 = b'4';
pub(crate) const DIRECTORY: u8 = b'5';
pub(crate) const FIFO: u8 = b'6';
const EXTENDED: u8 = b'x';

/// Appends the header, after an extended one where it needs that.
pub(crate) fn put(out: &mut Vec<u8>, head: &Head<'_>) {
    let records = records(head);
    if !records.is_empty() {
        let extended = Head {
            path: PAX_NAME,
            kind: EXTENDED,
            mode: 0o644,
            size: records.len() as u64,
            ..Head::default()
        };
        out.extend_from_slice(&block(&extended));
        out.extend_from_slice(&records);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.extend_from_slice(&block(head));
}

fn records(head: &Head<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    let mut number = |key: &str, value: u64, end: u64| {
        if value >= end {
            record(&mut records, key.as_bytes(), value.to_string().as_bytes());
        }
    };
    number("uid", head.uid.into(), ID_END);
    number("gid", head.gid.into(), ID_END);
    number("size", head.size, SIZE_END);
    if !u64::try_from(head.mtime).is_ok_and(|mtime| mtime < SIZE_END) {
        record(&mut records, b"mtime", head.mtime.to_string().as_bytes());
    }
    if head.path.len() > NAME {
        record(&mut records, b"path", head.path);
    }
    if head.link.len() > NAME {
        record(&mut records, b"linkpath", head.link);
    }
    for (name, value) in head.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    records
}

/// `length key=value\n`, where the length counts its own digits too.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn block(head: &Head<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    text(&mut block[..NAME], head.path);
    octal(&mut block[100..108], (head.mode & 0o7777).into());
    octal(&mut block[108..116], head.uid.into());
    octal(&mut block[116..124], head.gid.into());
    octal(&mut block[124..136], head.size);
    octal(&mut block[136..148], u64::try_from(head.mtime).unwrap_or(0));
    block[148..156].fill(b' ');
    block[156] = head.kind;
    text(&mut block[157..257], head.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], head.device.0.into());
    octal(&mut block[337..345], head.device.1.into());
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

fn text(field: &mut [u8], value: &[u8]) {
    let count = value.len().min(field.len());
    field[..count].copy_from_slice(&value[..count]);
}

/// All but the last byte in octal digits. What does not fit is zero, and in a PAX record.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let fits = value < 1 << (3 * digits);
    let text = format!("{:0digits$o}", if fits { value } else { 0 });
    field[..digits].copy_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_digits() {
        for length in [0, 1, 90, 91, 92, 93, 94, 980, 985, 990, 9980] {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'a'; length]);
            let text = String::from_utf8(out.clone()).unwrap();
            let told: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(told, out.len());
        }
    }

    #[test]
    fn what_fits_a_header_gets_no_other_one() {
        let mut head = Head {
            path: b"a/b",
            kind: FILE,
            mtime: 1_700_000_000,
            ..Head::default()
        };
        let mut out = Vec::new();
        put(&mut out, &head);
        assert_eq!(out.len(), BLOCK);
        for change in 0..4 {
            let long = [b'a'; 101];
            head = Head {
                path: if change == 0 { &long } else { b"a" },
                mtime: if change == 1 { -1 } else { 0 },
                uid: if change == 2 { 1 << 21 } else { 0 },
                size: if change == 3 { 1 << 33 } else { 0 },
                ..Head::default()
            };
            let mut out = Vec::new();
            put(&mut out, &head);
            assert_eq!(out.len(), 3 * BLOCK, "{change}");
        }
    }
}
