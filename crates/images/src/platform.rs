//! Which manifest of an index this machine takes.

use std::fmt;

use serde::Deserialize;

/// An operating system and processor as images name them (Go's names).
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
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
        ];
        for (host, offered, rank) in cases {
            assert_eq!(
                platform(host).rank(&platform(offered)),
                rank,
                "{offered} on {host}"
            );
        }
    }
}
