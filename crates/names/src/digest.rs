//! Content digests (OCI image-spec, "Digests") and the chain ids derived from them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// Hash functions that a digest may name. Others are refused rather than carried unverified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The name that stands before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the encoded part, in hexadecimal characters.
    pub fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// Why a string is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    #[error("digest {0:?} has no algorithm: expected sha256:<64 hexadecimal characters>")]
    NoAlgorithm(String),
    #[error("digest algorithm {0:?} is not supported: use sha256 or sha512")]
    UnknownAlgorithm(String),
    #[error("digest {digest:?} needs {expected} lowercase hexadecimal characters after the colon")]
    Malformed { digest: String, expected: usize },
}

/// A digest in canonical form; as a path component it is harmless by construction.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    text: String,
    algorithm: Algorithm,
}

impl Digest {
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (name, encoded) = text
            .split_once(':')
            .ok_or_else(|| DigestError::NoAlgorithm(clip(text)))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(DigestError::UnknownAlgorithm(clip(other))),
        };
        let canonical = encoded.len() == algorithm.hex_len()
            && encoded
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !canonical {
            return Err(DigestError::Malformed {
                digest: clip(text),
                expected: algorithm.hex_len(),
            });
        }
        Ok(Self {
            text: text.to_owned(),
            algorithm,
        })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The part after the colon.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The sha256 digest of `bytes`.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::from_sha256(Sha256::digest(bytes).into())
    }

    pub fn from_sha256(sum: [u8; 32]) -> Self {
        Self {
            text: format!("sha256:{}", hex::encode(sum)),
            algorithm: Algorithm::Sha256,
        }
    }

    pub fn from_sha512(sum: [u8; 64]) -> Self {
        Self {
            text: format!("sha512:{}", hex::encode(sum)),
            algorithm: Algorithm::Sha512,
        }
    }

    /// Whether `bytes` hash to this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::Sha256 => Self::sha256_of(bytes) == *self,
            Algorithm::Sha512 => Self::from_sha512(Sha512::digest(bytes).into()) == *self,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.text
    }
}

/// Identifies a stack of layers: its top layer's content applied over everything below
/// (OCI image-spec, "Layer ChainID").
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(Digest);

impl ChainId {
    /// The chain id of a layer with uncompressed digest `diff` over `parent`.
    pub fn of(parent: Option<&ChainId>, diff: &Digest) -> Self {
        match parent {
            None => Self(diff.clone()),
            Some(parent) => Self(Digest::sha256_of(format!("{parent} {diff}").as_bytes())),
        }
    }

    /// Chain ids of a whole image, bottom to top, from its diff ids in the same order.
    pub fn stack<'a>(diffs: impl IntoIterator<Item = &'a Digest>) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::new();
        for diff in diffs {
            chain.push(Self::of(chain.last(), diff));
        }
        chain
    }

    /// Takes a digest that is known to be a chain id, as read back from a record.
    pub fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    pub fn digest(&self) -> &Digest {
        &self.0
    }

    pub fn hex(&self) -> &str {
        self.0.hex()
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Error messages quote input; hostile input is quoted only so far.
pub(crate) fn clip(text: &str) -> String {
    const SHOWN: usize = 160;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_round_trips_through_json() {
        let digest = Digest::parse(EMPTY).unwrap();
        assert_eq!(digest, Digest::sha256_of(b""));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let upper = EMPTY.to_uppercase();
        let cases = [
            "",
            "sha256",
            "sha256:",
            "sha256:../../etc/passwd",
            "md5:d41d8cd98f00b204e9800998ecf8427e",
            &EMPTY[..70],
            &format!("{EMPTY}0"),
            &upper,
            &EMPTY.replace("e3", "E3"),
        ];
        for case in cases {
            assert!(Digest::parse(case).is_err(), "{case:?} was taken");
        }
    }

    #[test]
    fn the_bottom_layer_is_its_own_chain_and_order_matters() {
        let (a, b) = (Digest::sha256_of(b"a"), Digest::sha256_of(b"b"));
        let stack = ChainId::stack([&a, &b]);
        assert_eq!(stack[0].digest(), &a);
        assert_eq!(
            stack[1].digest(),
            &Digest::sha256_of(format!("{a} {b}").as_bytes())
        );
        assert_ne!(stack[1], ChainId::stack([&b, &a])[1]);
    }
}
