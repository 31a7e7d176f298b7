//! Image references in the familiar form that people type, normalised to the canonical one.
//!
//! The grammar is that of the distribution project's `reference` package: an optional domain, a
//! path of lowercase components, an optional tag and an optional digest. `busybox` means
//! `docker.io/library/busybox:latest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError, clip};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// The longest repository name that registries accept, domain included.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// Why a string is not an image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    #[error("the image reference is empty")]
    Empty,
    #[error("image reference {0:?}: the repository name must be lowercase")]
    Uppercase(String),
    #[error("image reference {0:?}: {1:?} is not a repository path component")]
    Component(String, String),
    #[error("image reference {0:?}: {1:?} is not a registry host")]
    Domain(String, String),
    #[error("image reference {0:?}: {1:?} is not a tag")]
    Tag(String, String),
    #[error("image reference {0:?}: the repository name is longer than 255 characters")]
    TooLong(String),
    #[error("image reference {0:?}: bad digest")]
    Digest(String, #[source] DigestError),
}

/// A normalised reference. At least one of tag and digest is present.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageRef {
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (rest, digest) = split_digest(text)?;
        let (name, tag) = split_tag(rest);
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ReferenceError::Tag(clip(text), clip(tag)));
        }
        let (domain, path) = split_domain(name);
        if !is_domain(&domain) {
            return Err(ReferenceError::Domain(clip(text), clip(&domain)));
        }
        check_path(text, &path)?;
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong(clip(text)));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            domain,
            path,
            tag,
            digest,
        })
    }

    /// Registry host, with its port if it has one.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository path within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `domain/path`, the name that repository tags and digests start with.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository, by digest alone.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The repository as people write it: without what is understood, which is Docker Hub and, on
    /// it, `library/`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        let bare = self.path.strip_prefix(OFFICIAL_PREFIX);
        let bare = bare.filter(|bare| !bare.contains('/'));
        bare.unwrap_or(&self.path).to_owned()
    }

    /// The whole reference as people write it.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        for (mark, part) in [
            (':', self.tag.as_deref()),
            ('@', self.digest.as_ref().map(Digest::as_str)),
        ] {
            if let Some(part) = part {
                text.push(mark);
                text.push_str(part);
            }
        }
        text
    }

    /// `repository:tag`, where there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag
            .as_ref()
            .map(|tag| format!("{}:{tag}", self.repository()))
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ImageRef {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(&text)
    }
}

impl From<ImageRef> for String {
    fn from(reference: ImageRef) -> Self {
        reference.to_string()
    }
}

fn split_digest(text: &str) -> Result<(&str, Option<Digest>), ReferenceError> {
    match text.split_once('@') {
        None => Ok((text, None)),
        Some((rest, digest)) => Digest::parse(digest)
            .map(|digest| (rest, Some(digest)))
            .map_err(|source| ReferenceError::Digest(clip(text), source)),
    }
}

/// A colon after the last slash starts the tag; one before it belongs to the port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let path_start = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[path_start..].find(':') {
        None => (text, None),
        Some(colon) => (
            &text[..path_start + colon],
            Some(&text[path_start + colon + 1..]),
        ),
    }
}

/// The first component is a host if it could not be a path component: it has a dot or a port, is
/// `localhost`, or has uppercase letters.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == LEGACY_DOMAIN {
        DEFAULT_DOMAIN
    } else {
        domain
    };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        (domain.to_owned(), format!("{OFFICIAL_PREFIX}{path}"))
    } else {
        (domain.to_owned(), path.to_owned())
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if domain.starts_with('[') {
        match domain.find(']') {
            None => return false,
            Some(end) => {
                let inner = &domain[1..end];
                if inner.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                return domain[end + 1..]
                    .strip_prefix(':')
                    .map_or(end + 1 == domain.len(), is_port);
            }
        }
    } else {
        match domain.split_once(':') {
            None => (domain, None),
            Some((host, port)) => (host, Some(port)),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

fn check_path(text: &str, path: &str) -> Result<(), ReferenceError> {
    for component in path.split('/') {
        if component.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(clip(text)));
        }
        if !is_component(component) {
            return Err(ReferenceError::Component(clip(text), clip(component)));
        }
    }
    Ok(())
}

/// Alphanumeric runs joined by one dot, one or two underscores, or any number of hyphens.
fn is_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(alnum) || !bytes.last().copied().is_some_and(alnum) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_digit() || c.is_ascii_lowercase())
        .filter(|separator| !separator.is_empty())
        .all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn familiar_names_become_canonical() {
        let by_digest = format!("busybox@{DIGEST}");
        let cases = [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest".to_owned(),
            ),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app:v1", "localhost:5000/app:v1".to_owned()),
            (
                "127.0.0.1:5000/a/b__c/d-e",
                "127.0.0.1:5000/a/b__c/d-e:latest".to_owned(),
            ),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
            (&by_digest, format!("docker.io/library/busybox@{DIGEST}")),
            (
                "registry.k8s.io/pause:3.9",
                "registry.k8s.io/pause:3.9".to_owned(),
            ),
        ];
        for (typed, canonical) in cases {
            let parsed = ImageRef::parse(typed).unwrap();
            assert_eq!(parsed.to_string(), canonical, "{typed}");
            assert_eq!(
                ImageRef::parse(&canonical).unwrap(),
                parsed,
                "{canonical} again"
            );
        }
    }

    #[test]
    fn a_tag_beside_a_digest_is_kept() {
        let both = ImageRef::parse(&format!("example.com/app:v2@{DIGEST}")).unwrap();
        assert_eq!(both.tag(), Some("v2"));
        assert_eq!(both.digest().unwrap().as_str(), DIGEST);
        assert_eq!(both.repository(), "example.com/app");
    }

    #[test]
    fn malformed_references_are_refused() {
        let long = format!("example.com/{}", "a".repeat(300));
        let cases = [
            "",
            "UPPER",
            "example.com/Upper",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a:b:c",
            "a@sha256:123",
            "a@md5:d41d8cd98f00b204e9800998ecf8427e",
            "example.com:99999/app",
            "-bad.com/app",
            "ex ample.com/app",
            "a..b",
            "a/../b",
            "a___b",
            "app\n",
            &long,
        ];
        for case in cases {
            assert!(ImageRef::parse(case).is_err(), "{case:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_stable(text in "\\PC{0,80}") {
            if let Ok(reference) = ImageRef::parse(&text) {
                prop_assert_eq!(ImageRef::parse(&reference.to_string()).unwrap(), reference);
            }
        }
    }
}
