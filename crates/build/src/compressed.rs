//! Compressed files of a context: gzip, zstd, bzip2 and xz, told by how they begin. What becomes too
//! large for what it was is refused.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use berth_unpack::{Decoder, RatioLimit};
use bzip2::read::MultiBzDecoder;
use lzma_rust2::XzReader;

const BZIP2: &[u8] = b"BZh";
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// KiB that a block may ask for: more than `xz -9e` does.
const XZ_MEMORY: u32 = 256 << 10;
/// Bytes that tell them apart.
const BEGIN: u64 = 6;

/// Whether a file that begins so is compressed.
pub fn is_compressed(begin: &[u8]) -> bool {
    [BZIP2, XZ, GZIP, ZSTD]
        .iter()
        .any(|magic| begin.starts_with(magic))
}

/// What is in a file, whether it is compressed or not.
pub fn plain<'r>(from: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
    limited(from, RatioLimit::default())
}

fn limited<'r>(mut from: impl Read + 'r, limit: RatioLimit) -> io::Result<Box<dyn Read + 'r>> {
    let mut begin = Vec::new();
    from.by_ref().take(BEGIN).read_to_end(&mut begin)?;
    let taken = Rc::new(Cell::new(0));
    let kind = (begin.starts_with(BZIP2), begin.starts_with(XZ));
    let whole = Counted {
        inner: io::Cursor::new(begin).chain(from),
        taken: Rc::clone(&taken),
    };
    let inner: Box<dyn Read + 'r> = match kind {
        (true, _) => Box::new(MultiBzDecoder::new(whole)),
        (_, true) => Box::new(XzReader::new_mem_limit(whole, true, XZ_MEMORY)),
        _ => return Ok(Box::new(Decoder::new(whole, limit)?)),
    };
    Ok(Box::new(Bounded {
        inner,
        taken,
        given: 0,
        limit,
    }))
}

struct Counted<R> {
    inner: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.taken.set(self.taken.get() + count as u64);
        Ok(count)
    }
}

struct Bounded<R> {
    inner: R,
    taken: Rc<Cell<u64>>,
    given: u64,
    limit: RatioLimit,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.given += count as u64;
        let RatioLimit {
            max_ratio,
            exempt_bytes,
        } = self.limit;
        match self.given > exempt_bytes && self.given / max_ratio > self.taken.get() {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it becomes too large for what it is compressed",
            )),
            false => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn packed(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut child = Command::new(program)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut stdin = child.stdin.take()?;
        let bytes = bytes.to_vec();
        let writing = std::thread::spawn(move || io::Write::write_all(&mut stdin, &bytes));
        let output = child.wait_with_output().ok()?;
        writing.join().unwrap().unwrap();
        Some(output.stdout)
    }

    #[test]
    fn what_common_programs_compress_is_read() {
        let text: Vec<u8> = (0..200_000_u32)
            .flat_map(|number| (number % 977).to_le_bytes())
            .collect();
        for program in ["gzip", "bzip2", "xz", "zstd"] {
            let Some(compressed) = packed(program, &text) else {
                println!("skipped: {program} is not installed");
                continue;
            };
            assert!(is_compressed(&compressed), "{program}");
            let mut all = Vec::new();
            plain(compressed.as_slice())
                .unwrap()
                .read_to_end(&mut all)
                .unwrap();
            assert!(all == text, "{program}");
            let mut cut = plain(&compressed[..compressed.len() - 9]).unwrap();
            assert!(cut.read_to_end(&mut Vec::new()).is_err(), "{program}, cut");
        }
        let mut all = Vec::new();
        plain(&b"plain"[..]).unwrap().read_to_end(&mut all).unwrap();
        assert_eq!(all, b"plain");
        assert!(!is_compressed(b"BZ"));
    }

    #[test]
    fn a_bomb_is_refused_whatever_packed_it() {
        for program in ["bzip2", "xz"] {
            let Some(bomb) = packed(program, &vec![0; 8 << 20]) else {
                println!("skipped: {program} is not installed");
                continue;
            };
            let limit = RatioLimit {
                max_ratio: 100,
                exempt_bytes: 1 << 20,
            };
            let mut contents = limited(bomb.as_slice(), limit).unwrap();
            let mut all = Vec::new();
            let error = contents.read_to_end(&mut all).unwrap_err();
            assert!(error.to_string().contains("too large"), "{error}");
            assert!(all.len() < 2 << 20, "{program}: {} bytes", all.len());
        }
    }

    #[test]
    fn a_block_that_asks_for_too_much_memory_is_refused() {
        // A stream header, and a block header that names a dictionary of 4 GiB - 1.
        let mut whole = XZ.to_vec();
        whole.extend([0, 1, 0x69, 0x22, 0xde, 0x36]);
        let block = [0x02, 0x00, 0x21, 0x01, 40, 0, 0, 0];
        whole.extend(block);
        whole.extend(crc32(&block).to_le_bytes());
        whole.extend([0; 64]);
        let mut contents = plain(whole.as_slice()).unwrap();
        let error = contents.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(
            error.to_string().contains("memory") || error.kind() == io::ErrorKind::OutOfMemory,
            "{error:?}"
        );
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            }
        }
        !crc
    }

    #[test]
    fn what_becomes_too_large_is_refused() {
        let taken = Rc::new(Cell::new(10));
        let mut bounded = Bounded {
            inner: io::repeat(0),
            taken,
            given: 0,
            limit: RatioLimit {
                max_ratio: 100,
                exempt_bytes: 500,
            },
        };
        let mut all = vec![0; 900];
        bounded.read_exact(&mut all).unwrap();
        assert!(bounded.read_exact(&mut all).is_err());
    }
}
