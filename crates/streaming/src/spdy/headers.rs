//! Header blocks: one zlib stream each way for the whole connection.
//!
//! ```text
//!  pairs:32 (length:32 name length:32 value)*
//! ```

use flate2::{Decompress, FlushDecompress};

use super::dictionary::dictionary;

/// Largest block after inflation: what a few bytes may become is up to the peer.
const MAX_BLOCK: usize = 16 << 10;
/// Most names and values in one block.
const MAX_PAIRS: u32 = 64;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("a header block is not in the connection's compression")]
    Compression,
    #[error("a header block is larger than {MAX_BLOCK} bytes")]
    TooLarge,
    #[error("a header block holds more than {MAX_PAIRS} headers")]
    TooMany,
    #[error("a header block ends within a header")]
    Truncated,
    #[error("a header is not text")]
    NotText,
}

/// Names, in lower case, with their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    fn parse(block: &[u8]) -> Result<Self, HeaderError> {
        let mut rest = block;
        let count = number(&mut rest)?;
        if count > MAX_PAIRS {
            return Err(HeaderError::TooMany);
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = text(&mut rest)?.to_ascii_lowercase();
            headers.push((name, text(&mut rest)?.to_owned()));
        }
        Ok(Self(headers))
    }
}

fn number(rest: &mut &[u8]) -> Result<u32, HeaderError> {
    let (bytes, tail) = rest.split_first_chunk().ok_or(HeaderError::Truncated)?;
    *rest = tail;
    Ok(u32::from_be_bytes(*bytes))
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, HeaderError> {
    let length = number(rest)? as usize;
    let (bytes, tail) = rest
        .split_at_checked(length)
        .ok_or(HeaderError::Truncated)?;
    *rest = tail;
    std::str::from_utf8(bytes).map_err(|_| HeaderError::NotText)
}

/// Inflates the peer's blocks.
#[derive(Debug)]
pub struct Inflate(Decompress);

impl Inflate {
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of the next block. After an error the connection cannot go on.
    pub fn block(&mut self, mut input: &[u8]) -> Result<Headers, HeaderError> {
        let mut block = Vec::with_capacity(512);
        while !input.is_empty() {
            if block.len() == block.capacity() {
                if block.len() >= MAX_BLOCK {
                    return Err(HeaderError::TooLarge);
                }
                block.reserve_exact(block.len());
            }
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let outcome = self
                .0
                .decompress_vec(input, &mut block, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - read).unwrap_or(0);
            input = input.get(taken..).unwrap_or_default();
            match outcome {
                Ok(_) if taken == 0 && self.0.total_out() == written => {
                    return Err(HeaderError::Compression);
                }
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&dictionary())
                        .map_err(|_| HeaderError::Compression)?;
                }
                Err(_) => return Err(HeaderError::Compression),
            }
        }
        self.rest(&mut block)?;
        Headers::parse(&block)
    }

    /// What the inflater still holds because there was no room for it.
    fn rest(&mut self, block: &mut Vec<u8>) -> Result<(), HeaderError> {
        while block.len() == block.capacity() {
            if block.len() >= MAX_BLOCK {
                return Err(HeaderError::TooLarge);
            }
            block.reserve_exact(block.len());
            let before = block.len();
            // With no input left the inflater may say that it cannot go on: then it held nothing.
            let _ = self.0.decompress_vec(&[], block, FlushDecompress::Sync);
            if block.len() == before {
                break;
            }
        }
        Ok(())
    }
}

/// Our own blocks are always empty: 0 pairs. They are stored, not compressed (RFC 1951, 3.2.4),
/// which any inflater reads and which saves a quarter of a megabyte for each connection.
#[derive(Debug, Default)]
pub struct EmptyBlocks {
    begun: bool,
}

impl EmptyBlocks {
    pub fn next(&mut self) -> Vec<u8> {
        let mut block = Vec::with_capacity(16);
        if !std::mem::replace(&mut self.begun, true) {
            // The zlib header (RFC 1950): deflate, window of 32 KiB, no dictionary.
            block.extend_from_slice(&[0x78, 0x01]);
        }
        block.extend_from_slice(&[0x00, 0x04, 0x00, 0xfb, 0xff, 0, 0, 0, 0]);
        // And one of no bytes, as a sync flush ends: Go's inflater hands out at that what it has.
        block.extend_from_slice(&[0x00, 0x00, 0x00, 0xff, 0xff]);
        block
    }
}

#[cfg(test)]
pub mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    /// A client's side.
    pub struct Deflate(Compress);

    impl Deflate {
        pub fn new() -> Self {
            let mut compress = Compress::new(Compression::best(), true);
            compress.set_dictionary(&dictionary()).unwrap();
            Self(compress)
        }

        pub fn raw(&mut self, block: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(block.len() + 1024);
            self.0
                .compress_vec(block, &mut out, FlushCompress::Sync)
                .unwrap();
            out
        }

        pub fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            self.raw(&plain(headers))
        }
    }

    fn plain(headers: &[(&str, &str)]) -> Vec<u8> {
        let length = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
        let mut block = length(headers.len()).to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(length(text.len()));
            block.extend(text.as_bytes());
        }
        block
    }

    #[test]
    fn blocks_of_one_connection_share_their_compression() {
        let (mut deflate, mut inflate) = (Deflate::new(), Inflate::new());
        for kind in ["error", "stdin", "stdout", "stderr", "resize"] {
            let block = deflate.block(&[("streamtype", kind), ("port", "80")]);
            let headers = inflate.block(&block).unwrap();
            assert_eq!(headers.get("streamtype"), Some(kind));
            assert_eq!(headers.get("port"), Some("80"));
            assert_eq!(headers.get("host"), None);
        }
    }

    #[test]
    fn a_large_block_arrives_whole() {
        let value = "x".repeat(9000);
        let (mut deflate, mut inflate) = (Deflate::new(), Inflate::new());
        let headers = inflate.block(&deflate.block(&[("a", &value)])).unwrap();
        assert_eq!(headers.get("a"), Some(value.as_str()));
        let headers = inflate.block(&deflate.block(&[("b", "c")])).unwrap();
        assert_eq!(headers.get("b"), Some("c"));
    }

    #[test]
    fn a_bomb_is_cut_off() {
        let mut deflate = Deflate::new();
        let bomb = deflate.raw(&vec![0; 8 << 20]);
        assert!(bomb.len() < 32 << 10, "{} bytes fit a frame", bomb.len());
        assert_eq!(Inflate::new().block(&bomb), Err(HeaderError::TooLarge));
    }

    #[test]
    fn hostile_blocks_are_refused() {
        let mut pairs = plain(&[("a", "b")]);
        pairs[3] = 200;
        let mut long = plain(&[("a", "b")]);
        long[4] = 0xff;
        let cut = plain(&[("a", "b")])[..10].to_vec();
        let mut binary = plain(&[("a", "b")]);
        binary[8] = 0xff;
        for (block, expected) in [
            (pairs, HeaderError::TooMany),
            (long, HeaderError::Truncated),
            (cut, HeaderError::Truncated),
            (binary, HeaderError::NotText),
            (Vec::new(), HeaderError::Truncated),
        ] {
            let compressed = Deflate::new().raw(&block);
            assert_eq!(
                Inflate::new().block(&compressed),
                Err(expected),
                "{block:?}"
            );
        }
        for garbage in [&b"\x78\x01\xff\xff\xff"[..], b"GET / HTTP/1.1", &[0; 64]] {
            assert_eq!(
                Inflate::new().block(garbage),
                Err(HeaderError::Compression),
                "{garbage:?}"
            );
        }
        assert_eq!(Inflate::new().block(b""), Err(HeaderError::Truncated));
    }

    #[test]
    fn our_blocks_are_read_by_any_inflater() {
        let (mut blocks, mut inflate) = (EmptyBlocks::default(), Inflate::new());
        for _ in 0..3 {
            assert_eq!(inflate.block(&blocks.next()), Ok(Headers::default()));
        }
    }
}
