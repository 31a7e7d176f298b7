//! Names of images, as clients write and read them.

use std::sync::Arc;

use berth_images::Image;
use berth_names::ImageRef;

use crate::{Engine, Error, Result};

/// A reference that may be short: `busybox` is Docker Hub's `library/busybox:latest`.
pub fn parse(text: &str) -> Result<ImageRef> {
    ImageRef::parse(text).map_err(|_| Error::bad(format!("invalid reference format: {text:?}")))
}

/// The image that a name, or the start of an id, means here.
pub fn find(engine: &Engine, name: &str) -> Result<Arc<Image>> {
    let image = engine.images.get(name);
    image.ok_or_else(|| missing(name))
}

pub fn missing(name: &str) -> Error {
    let name = match ImageRef::parse(name) {
        Ok(reference) => reference.familiar(),
        Err(_) => name.to_owned(),
    };
    Error::no_such("image", name)
}

/// A canonical name as people write it.
pub fn familiar(canonical: &str) -> String {
    match ImageRef::parse(canonical) {
        Ok(reference) => reference.familiar(),
        Err(_) => canonical.to_owned(),
    }
}

pub fn all_familiar(canonical: &[String]) -> Vec<String> {
    canonical.iter().map(|name| familiar(name)).collect()
}

/// Whether an image's name is wanted: `pattern` is a glob over the familiar name, with its tag or
/// without, and `*` stops at slashes.
pub fn matches(pattern: &str, canonical: &str) -> bool {
    let Ok(reference) = ImageRef::parse(canonical) else {
        return false;
    };
    [reference.familiar(), reference.familiar_name()]
        .iter()
        .any(|name| glob(pattern.as_bytes(), name.as_bytes()))
}

/// `*`, `?`, `[a-z]`, `[^a-z]` and `\` before any of them, as Go's `path.Match` has them.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => {
            let segment = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=segment).any(|taken| text.get(taken..).is_some_and(|tail| glob(rest, tail)))
        }
        [b'?', rest @ ..] => {
            matches!(text, [first, tail @ ..] if *first != b'/' && glob(rest, tail))
        }
        [b'[', rest @ ..] => match (class(rest), text) {
            (Some((set, rest)), [first, tail @ ..]) => set.has(*first) && glob(rest, tail),
            _ => false,
        },
        [b'\\', escaped, rest @ ..] => {
            matches!(text, [first, tail @ ..] if first == escaped && glob(rest, tail))
        }
        [literal, rest @ ..] => {
            matches!(text, [first, tail @ ..] if first == literal && glob(rest, tail))
        }
    }
}

struct Class<'a> {
    negated: bool,
    members: &'a [u8],
}

fn class(after: &[u8]) -> Option<(Class<'_>, &[u8])> {
    let end = after.iter().position(|b| *b == b']')?;
    let (inside, rest) = (after.get(..end)?, after.get(end + 1..)?);
    let class = match inside {
        [b'^', members @ ..] => Class {
            negated: true,
            members,
        },
        members => Class {
            negated: false,
            members,
        },
    };
    Some((class, rest))
}

impl Class<'_> {
    fn has(&self, byte: u8) -> bool {
        let mut members = self.members;
        let found = loop {
            members = match members {
                [] => break false,
                [low, b'-', high, rest @ ..] => {
                    if (low..=high).contains(&&byte) {
                        break true;
                    }
                    rest
                }
                [one, rest @ ..] => {
                    if *one == byte {
                        break true;
                    }
                    rest
                }
            };
        };
        found != self.negated && byte != b'/'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_familiar_names_with_and_without_tag() {
        let hub = "docker.io/library/busybox:1.36";
        let own = "127.0.0.1:5000/team/app:v1";
        for (pattern, name, expected) in [
            ("busybox", hub, true),
            ("busybox:*", hub, true),
            ("busybox:1.3?", hub, true),
            ("busybox:[0-9].36", hub, true),
            ("busybox:[^0-9].36", hub, false),
            ("b*x", hub, true),
            ("busy", hub, false),
            ("*", hub, true),
            ("*/busybox", hub, false),
            ("*", own, false),
            ("*/team/app", own, true),
            ("127.0.0.1:5000/*/app:v[12]", own, true),
            ("*/*", own, false),
            ("[", own, false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }
}
