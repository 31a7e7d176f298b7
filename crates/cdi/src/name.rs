//! Names of devices: `vendor/class=name`.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};

/// Annotations that begin so list devices, separated by commas; what follows does not matter.
pub const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";

/// A fully qualified device name, checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName(String);

impl DeviceName {
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |problem| Error::Name {
            name: text.chars().take(200).collect(),
            problem,
        };
        let (kind, name) = text
            .split_once('=')
            .ok_or_else(|| refuse("there is no `=`"))?;
        check_kind(kind).map_err(refuse)?;
        check_device(name).map_err(refuse)?;
        Ok(Self(text.to_owned()))
    }

    /// `kind` and `name` are checked already.
    pub(crate) fn of(kind: &str, name: &str) -> Self {
        Self(format!("{kind}={name}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The devices that a request names in its field and in its annotations, each once, in that order.
pub fn requested<'a>(
    listed: impl IntoIterator<Item = &'a str>,
    annotations: &'a BTreeMap<String, String>,
) -> Result<Vec<DeviceName>> {
    let annotated = annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX))
        .flat_map(|(_, value)| value.split(','));
    let mut found = Vec::new();
    for text in listed.into_iter().chain(annotated) {
        let name = DeviceName::parse(text)?;
        if !found.contains(&name) {
            found.push(name);
        }
    }
    Ok(found)
}

/// `vendor/class`.
pub(crate) fn check_kind(kind: &str) -> Result<(), &'static str> {
    let (vendor, class) = kind
        .split_once('/')
        .ok_or("vendor and class are separated by `/`")?;
    for part in [vendor, class] {
        let bytes = part.as_bytes();
        match (bytes.first(), bytes.last()) {
            (Some(first), Some(last))
                if first.is_ascii_alphabetic() && last.is_ascii_alphanumeric() => {}
            _ => return Err("vendor and class begin with a letter and end with one or a digit"),
        }
        if !bytes
            .iter()
            .all(|byte| plain(*byte) || b"_-.".contains(byte))
        {
            return Err("vendor and class have letters, digits, `_`, `-` and `.` only");
        }
    }
    Ok(())
}

pub(crate) fn check_device(name: &str) -> Result<(), &'static str> {
    let bytes = name.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) if plain(*first) && plain(*last) => {}
        _ => return Err("the name begins and ends with a letter or a digit"),
    }
    match bytes
        .iter()
        .all(|byte| plain(*byte) || b"_-.:".contains(byte))
    {
        true => Ok(()),
        false => Err("the name has letters, digits, `_`, `-`, `.` and `:` only"),
    }
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_the_specification_has_them() {
        for good in ["vendor.com/gpu=0", "a/b=c", "v-1.x/net_c.d=1:2.3-4_5"] {
            assert_eq!(DeviceName::parse(good).unwrap().as_str(), good);
        }
        let bad = [
            "",
            "gpu0",
            "/dev/null",
            "vendor/gpu",
            "vendor/gpu=",
            "=0",
            "/gpu=0",
            "vendor/=0",
            "1vendor/gpu=0",
            "vendor-/gpu=0",
            "vendor/gpu=-0",
            "vendor/gpu=0:",
            "ven dor/gpu=0",
            "vendor/gpu=a=b",
            "vendor/gpu=ä",
            "vendor/a/b=0",
            "vendor/gpu=../../x",
        ];
        for name in bad {
            assert!(DeviceName::parse(name).is_err(), "{name:?} was taken");
        }
    }

    #[test]
    fn devices_of_field_and_annotations_count_once() {
        let annotations = BTreeMap::from([
            ("cdi.k8s.io/plugin_b".to_owned(), "v/c=3,v/c=1".to_owned()),
            ("cdi.k8s.io/plugin_a".to_owned(), "v/c=2".to_owned()),
            ("other/cdi.k8s.io".to_owned(), "nonsense".to_owned()),
        ]);
        let found = requested(["v/c=1"], &annotations).unwrap();
        let found: Vec<&str> = found.iter().map(DeviceName::as_str).collect();
        assert_eq!(found, ["v/c=1", "v/c=2", "v/c=3"]);
        let bad = BTreeMap::from([("cdi.k8s.io/x".to_owned(), "v/c=1, v/c=2".to_owned())]);
        assert!(requested([], &bad).is_err(), "a name with a space");
        assert!(requested([""], &BTreeMap::new()).is_err());
    }
}
