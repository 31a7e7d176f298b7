//! Which manifest of an index this machine takes.

use std::fmt;

use serde::Deserialize;

/// An operating system and processor as images name them (Go's names).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: String,
}

impl Platform {
    /// Of this machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: String::new(),
        }
    }

    /// As people write it: `linux/arm64`, `arm64`, `linux/arm/v7`, `aarch64`; `linux` is this
    /// machine's. A variant that every processor of its kind has is left out. `None` of what is
    /// none.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let good = |part: &str| {
            let is_good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            !part.is_empty() && part.chars().all(is_good)
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| good(part)) {
            return None;
        }
        let host = Self::host();
        let (os, architecture, variant) = match parts.as_slice() {
            [os] if ["linux", "windows", "darwin", "freebsd"].contains(os) => {
                (*os, host.architecture.as_str(), "")
            }
            [architecture] => ("linux", *architecture, ""),
            [os, architecture] => (*os, *architecture, ""),
            [os, architecture, variant] => (*os, *architecture, *variant),
            _ => return None,
        };
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("i386" | "i686", variant) => ("386", variant),
            ("armhf" | "arm", "" | "7") => ("arm", "v7"),
            ("armel", "") | ("arm", "6") => ("arm", "v6"),
            other => other,
        };
        Some(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        })
    }

    /// Whether a machine of `self` runs images for `offered`.
    pub fn runs(&self, offered: &Platform) -> bool {
        self.rank(offered).is_some()
    }

    /// How well an image for `offered` suits a machine of `self`: the smaller the better, `None`
    /// if it cannot run. An image for the base of the architecture goes before one that needs an
    /// extension, even where the machine has it: it is what everybody else runs.
    pub(crate) fn rank(&self, offered: &Platform) -> Option<u8> {
        if offered.os != self.os || offered.architecture != self.architecture {
            return None;
        }
        let variant = offered.variant.as_str();
        if variant == self.variant {
            return Some(0);
        }
        match (self.architecture.as_str(), variant) {
            ("amd64", "" | "v1") | ("arm64", "" | "v8") => Some(1),
            ("amd64", "v2" | "v3") if level() >= level_of(variant) => Some(2),
            ("arm64", _) => None,
            ("amd64", _) => None,
            ("arm", _) => older_arm(&self.variant, variant),
            (_, "") => Some(1),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// Later processors run what was built for earlier ones: the latest of those goes first.
fn older_arm(own: &str, offered: &str) -> Option<u8> {
    let number = |variant: &str| -> Option<u8> {
        match variant {
            "" => Some(7),
            variant => variant.strip_prefix('v')?.parse().ok(),
        }
    };
    number(own)?.checked_sub(number(offered)?)
}

fn level_of(variant: &str) -> u8 {
    if variant == "v3" { 3 } else { 2 }
}

/// The x86-64 micro-architecture level of this processor, as the psABI defines them.
#[cfg(target_arch = "x86_64")]
fn level() -> u8 {
    macro_rules! has {
        ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    if !has!("cmpxchg16b", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3") {
        1
    } else if !has!(
        "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe"
    ) {
        2
    } else {
        3
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn level() -> u8 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform {
            os: next(),
            architecture: next(),
            variant: next(),
        }
    }

    #[test]
    fn the_base_of_the_architecture_goes_first_and_others_do_not_run() {
        let cases = [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/amd64/v1", Some(1)),
            ("linux/amd64", "linux/amd64/v9", None),
            ("linux/amd64", "linux/arm64", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/amd64", "unknown/unknown", None),
            ("linux/arm64", "linux/arm64/v8", Some(1)),
            ("linux/arm64", "linux/arm64", Some(0)),
            ("linux/arm64", "linux/arm64/v9", None),
            ("linux/arm64", "linux/arm/v7", None),
            ("linux/s390x", "linux/s390x", Some(0)),
            ("linux/arm/v7", "linux/arm", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
        ];
        for (host, offered, rank) in cases {
            assert_eq!(
                platform(host).rank(&platform(offered)),
                rank,
                "{offered} on {host}"
            );
        }
    }

    #[test]
    fn one_platform_has_one_name_however_it_is_written() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("Linux/ARM64/v8", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("armel", "linux/arm/v6"),
            ("i386", "linux/386"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), expected);
        }
        assert_eq!(Platform::parse("linux"), Some(Platform::host()));
        for text in [
            "",
            "/",
            "linux/",
            "a/b/c/d",
            "linux/amd64,linux/arm64",
            "a b",
        ] {
            assert_eq!(Platform::parse(text), None, "{text}");
        }
    }
}
