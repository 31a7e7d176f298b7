//! What a build says of its outcome: how it was made (SLSA provenance, version 1), and what is in it (an
//! SPDX document of packages). Neither has secrets: of those the ids alone, of addresses what is public,
//! and arguments only where they are asked for.

mod bill;
mod packages;
mod provenance;
mod saying;

use std::collections::BTreeMap;

use parking_lot::Mutex;

pub(crate) use bill::{BILL_TYPE, bill};
pub(crate) use packages::scan;
pub(crate) use provenance::{Facts, PROVENANCE_TYPE, predicate};

use crate::error::{Error, Result};

/// What is to be said of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attest {
    pub provenance: Option<Provenance>,
    pub has_bill: bool,
}

/// How much is said of how it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Arguments, labels and the Dockerfile, too.
    pub is_full: bool,
    /// Who built it, a URI; empty for this builder.
    pub builder: String,
}

impl Attest {
    /// `type=provenance,mode=min|max` and `type=sbom`: what comes later counts.
    ///
    /// # Errors
    /// If it is of a type that is not there, or has other fields.
    pub fn parse<'t>(all: impl Iterator<Item = &'t str>) -> Result<Self> {
        let mut attest = Self::default();
        for text in all {
            attest.read(text)?;
        }
        Ok(attest)
    }

    fn read(&mut self, text: &str) -> Result<()> {
        let wrong = |problem: &str| Error::invalid(format!("attestation {text:?}: {problem}"));
        let (mut kind, mut provenance, mut is_disabled) = ("", Provenance::default(), false);
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("type", value)) => kind = value,
                Some(("disabled", value)) => is_disabled = value == "true" || value == "1",
                Some(("mode", "min")) => provenance.is_full = false,
                Some(("mode", "max")) => provenance.is_full = true,
                Some(("builder-id", value)) => provenance.builder = value.to_owned(),
                Some(("version", "v1")) => {}
                Some(("version", _)) => return Err(wrong("only version=v1 is written")),
                Some(("generator", _)) => {
                    return Err(wrong(
                        "packages are read by Berth itself: there is no generator",
                    ));
                }
                // Of buildx, for what it asks for by itself.
                Some(("inline-only", _)) => {}
                _ => return Err(wrong(&format!("{field:?} is not known"))),
            }
        }
        match kind {
            "provenance" => self.provenance = (!is_disabled).then_some(provenance),
            "sbom" => self.has_bill = !is_disabled,
            _ => return Err(wrong("there are type=provenance and type=sbom")),
        }
        Ok(())
    }

    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What a build used of elsewhere, by its address, with the digest that it had.
#[derive(Debug, Default)]
pub(crate) struct Materials(Mutex<BTreeMap<String, Option<Checksum>>>);

/// An algorithm's name, and the sum in hexadecimal digits.
pub(crate) type Checksum = (&'static str, String);

impl Materials {
    pub fn add(&self, address: String, checksum: Option<Checksum>) {
        let mut all = self.0.lock();
        let known = all.entry(address).or_default();
        *known = checksum.or_else(|| known.take());
    }

    pub fn all(&self) -> BTreeMap<String, Option<Checksum>> {
        self.0.lock().clone()
    }
}

/// An address without what may be a secret: users, passwords and queries.
pub(crate) fn public(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let rest = rest.split('?').next().unwrap_or_default();
    let (host, path) = match rest.find('/') {
        Some(end) => rest.split_at(end),
        None => (rest, ""),
    };
    let host = host.rsplit('@').next().unwrap_or_default();
    let scheme = match scheme {
        "" => String::new(),
        scheme => format!("{scheme}://"),
    };
    let fragment = match fragment {
        "" => String::new(),
        fragment => format!("#{fragment}"),
    };
    format!("{scheme}{host}{path}{fragment}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_read_as_buildx_s_and_the_last_counts() {
        let of = |all: &[&str]| Attest::parse(all.iter().copied());
        assert!(of(&[]).unwrap().is_nothing());
        let full = of(&["type=provenance,mode=max,version=v1", "type=sbom"]).unwrap();
        assert!(full.has_bill && full.provenance.unwrap().is_full);
        let min = of(&[
            "type=provenance,mode=max",
            "type=provenance,builder-id=https://x",
        ]);
        let expected = Provenance {
            is_full: false,
            builder: "https://x".to_owned(),
        };
        assert_eq!(min.unwrap().provenance, Some(expected));
        let none = of(&["type=provenance", "type=provenance,disabled=true"]).unwrap();
        assert!(none.is_nothing());
        for wrong in [
            "",
            "type=x",
            "type=provenance,mode=most",
            "type=provenance,version=v0.2",
            "type=sbom,generator=image",
            "mode=max",
        ] {
            assert!(of(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_lose_what_may_be_a_secret() {
        for (address, expected) in [
            (
                "https://me:pass@host/a/b?token=x#main",
                "https://host/a/b#main",
            ),
            ("https://token@host:8/a.git", "https://host:8/a.git"),
            ("https://host?key=x", "https://host"),
            ("git://host/a.git#v1:sub", "git://host/a.git#v1:sub"),
            ("github.com/a/b", "github.com/a/b"),
        ] {
            assert_eq!(public(address), expected, "{address}");
        }
    }
}
