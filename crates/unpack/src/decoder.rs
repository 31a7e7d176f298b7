//! Compressed layer to archive, by its first bytes.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::options::RatioLimit;

const INPUT_BUFFER: usize = 256 << 10;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// zstd skippable frames have a magic number of 0x184D2A50 to 5F, little-endian.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
/// Formats that layers are not distributed in; named, so that the error says what it is.
const FOREIGN: [(&[u8], &str); 3] = [
    (b"BZh", "bzip2"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
];

/// Compression of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    /// One or more gzip members (RFC 1952).
    Gzip,
    /// One or more zstd frames, skippable ones among them (RFC 8878).
    Zstd,
}

/// Reads the uncompressed archive out of a layer. Fails with `InvalidData` when the data is
/// damaged, in a foreign format, or larger than the ratio allows.
pub struct Decoder<R: Read> {
    codec: Codec<Source<R>>,
    limit: RatioLimit,
    produced: u64,
}

type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, Counted<R>>>;

enum Codec<B: BufRead> {
    Plain(B),
    Gzip(Box<MultiGzDecoder<B>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, B>>),
}

impl<R: Read> Decoder<R> {
    /// Reads the first bytes of `reader` to learn the format.
    pub fn new(mut reader: R, limit: RatioLimit) -> io::Result<Self> {
        let mut start = Vec::with_capacity(8);
        reader.by_ref().take(8).read_to_end(&mut start)?;
        let compression = detect(&start)?;
        let counted = Counted {
            inner: reader,
            count: start.len() as u64,
        };
        let source = BufReader::with_capacity(INPUT_BUFFER, Cursor::new(start).chain(counted));
        let codec = match compression {
            Compression::None => Codec::Plain(source),
            Compression::Gzip => Codec::Gzip(Box::new(MultiGzDecoder::new(source))),
            Compression::Zstd => {
                Codec::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(source)?))
            }
        };
        Ok(Self {
            codec,
            limit,
            produced: 0,
        })
    }

    pub fn compression(&self) -> Compression {
        match self.codec {
            Codec::Plain(_) => Compression::None,
            Codec::Gzip(_) => Compression::Gzip,
            Codec::Zstd(_) => Compression::Zstd,
        }
    }

    /// Compressed bytes that were decoded.
    fn consumed(&self) -> u64 {
        let source = match &self.codec {
            Codec::Plain(source) => source,
            Codec::Gzip(decoder) => decoder.get_ref(),
            Codec::Zstd(decoder) => decoder.get_ref(),
        };
        let read = source.get_ref().get_ref().1.count;
        read.saturating_sub(source.buffer().len() as u64)
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.codec {
            Codec::Plain(source) => source.read(buffer),
            Codec::Gzip(decoder) => decoder.read(buffer),
            Codec::Zstd(decoder) => decoder.read(buffer),
        }?;
        self.produced += count as u64;
        if self.produced > self.limit.exempt_bytes
            && self.produced / self.limit.max_ratio > self.consumed()
        {
            let reason = format!(
                "decompresses to more than {} times its size",
                self.limit.max_ratio
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(count)
    }
}

fn detect(start: &[u8]) -> io::Result<Compression> {
    if start.starts_with(GZIP) {
        return Ok(Compression::Gzip);
    }
    let skippable =
        start.first().is_some_and(|b| b & 0xf0 == 0x50) && start.get(1..4) == Some(ZSTD_SKIPPABLE);
    if start.starts_with(ZSTD) || skippable {
        return Ok(Compression::Zstd);
    }
    for (magic, name) in FOREIGN {
        if start.starts_with(magic) {
            let reason = format!("{name} compression is not supported for layers");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
    }
    Ok(Compression::None)
}

struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn decode(data: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let mut decoder = Decoder::new(data, RatioLimit::default())?;
        let mut out = Vec::new();
        decoder.read_to_end(&mut out)?;
        Ok((decoder.compression(), out))
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let skippable = [
            &[0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..],
            &zstd::encode_all(&b"abc"[..], 1).unwrap(),
        ]
        .concat();
        let cases = [
            (Compression::None, b"abc".to_vec()),
            (Compression::Gzip, gzip(b"abc")),
            (
                Compression::Gzip,
                [gzip(b"a"), gzip(b"b"), gzip(b"c")].concat(),
            ),
            (Compression::Zstd, zstd::encode_all(&b"abc"[..], 1).unwrap()),
            (Compression::Zstd, skippable),
        ];
        for (compression, data) in cases {
            assert_eq!(decode(&data).unwrap(), (compression, b"abc".to_vec()));
        }
        assert_eq!(decode(b"").unwrap(), (Compression::None, Vec::new()));
        assert_eq!(decode(b"x").unwrap(), (Compression::None, b"x".to_vec()));
    }

    #[test]
    fn damaged_and_foreign_data_is_an_error() {
        let whole = gzip(&[7; 10_000]);
        let mut flipped = whole.clone();
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        for data in [
            &whole[..whole.len() - 1],
            &flipped,
            b"BZh91AY",
            b"\xfd7zXZ\0\0",
        ] {
            assert!(decode(data).is_err());
        }
    }

    #[test]
    fn a_bomb_is_stopped_by_its_ratio() {
        let limit = RatioLimit {
            max_ratio: 100,
            exempt_bytes: 1 << 20,
        };
        let bomb = gzip(&vec![0; 32 << 20]);
        let mut decoder = Decoder::new(&bomb[..], limit).unwrap();
        let error = io::copy(&mut decoder, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(decoder.produced < 16 << 20);
    }
}
