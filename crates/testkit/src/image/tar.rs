//! A tar writer that knows what a layer needs: ustar headers, and PAX records
//! for what does not fit into them.

use std::io::{self, Write};

const BLOCK: usize = 512;

/// What one header says. Sizes follow from the content.
pub(super) struct Header<'a> {
    /// Relative to the root of the layer, without a leading slash.
    pub path: &'a str,
    /// Target of a symbolic or hard link, empty otherwise.
    pub link: &'a str,
    /// Type flag of POSIX ustar.
    pub kind: u8,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

pub(super) const FILE: u8 = b'0';
pub(super) const HARD_LINK: u8 = b'1';
pub(super) const SYMLINK: u8 = b'2';
pub(super) const DIRECTORY: u8 = b'5';
const PAX: u8 = b'x';

/// Writes one entry with its content, padded to whole blocks.
pub(super) fn write_entry(out: &mut impl Write, header: &Header, content: &[u8]) -> io::Result<()> {
    let mut records = Vec::new();
    if header.path.len() > 100 {
        pax_record(&mut records, "path", header.path);
    }
    if header.link.len() > 100 {
        pax_record(&mut records, "linkpath", header.link);
    }
    if !records.is_empty() {
        let extended = Header {
            path: "pax",
            link: "",
            kind: PAX,
            mode: 0o644,
            ..Header { ..*header }
        };
        write_block(out, &extended, &records)?;
    }
    write_block(out, header, content)
}

/// Two zero blocks end an archive.
pub(super) fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

fn write_block(out: &mut impl Write, header: &Header, content: &[u8]) -> io::Result<()> {
    out.write_all(&encode(header, content.len()))?;
    out.write_all(content)?;
    let padding = content.len().next_multiple_of(BLOCK) - content.len();
    out.write_all(&[0; BLOCK][..padding])
}

/// `length key=value\n`, where the length counts its own digits.
fn pax_record(records: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
}

fn encode(header: &Header, size: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put(&mut block[0..100], header.path.as_bytes());
    put_octal(&mut block[100..108], u64::from(header.mode));
    put_octal(&mut block[108..116], u64::from(header.uid));
    put_octal(&mut block[116..124], u64::from(header.gid));
    put_octal(&mut block[124..136], size as u64);
    put_octal(&mut block[136..148], 0);
    block[148..156].fill(b' ');
    block[156] = header.kind;
    put(&mut block[157..257], header.link.as_bytes());
    put(&mut block[257..265], b"ustar\x0000");
    put_octal(&mut block[329..337], 0);
    put_octal(&mut block[337..345], 0);
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    put_octal(&mut block[148..156], sum);
    block
}

/// Cuts what is too long: a PAX record has the whole text then.
fn put(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Octal digits, zero-padded, and a closing NUL.
fn put_octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    put(field, format!("{value:0digits$o}\0").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_length_counts_its_own_digits() {
        for (value, expected) in [("x", "9 path=x\n"), ("xx", "11 path=xx\n")] {
            let mut records = Vec::new();
            pax_record(&mut records, "path", value);
            let text = String::from_utf8(records).unwrap();
            assert!(text.starts_with(expected), "{text}");
            assert_eq!(
                text.split(' ').next().unwrap().parse::<usize>().unwrap(),
                text.len()
            );
        }
    }
}
