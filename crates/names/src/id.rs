//! Ids that Berth gives to pods, containers and networks: 256 random bits in lowercase hexadecimal, the form
//! that kubelets, log shippers and cgroup parsers expect.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Length of an id in characters.
const LEN: usize = 64;

/// Why a string is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{kind} id {text:?} is not 64 lowercase hexadecimal characters")]
pub struct IdError {
    kind: &'static str,
    text: String,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn parse(text: &str) -> Result<Self, IdError> {
                if is_id(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError { kind: $kind, text: crate::digest::clip(text) })
                }
            }

            /// Forms an id from 256 bits that the caller drew at random.
            pub fn from_random(bits: [u8; LEN / 2]) -> Self {
                Self(hex::encode(bits))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id_type!(
    /// Names a pod sandbox.
    SandboxId,
    "sandbox"
);
id_type!(
    /// Names a container.
    ContainerId,
    "container"
);
id_type!(
    /// Names a network that containers join.
    NetworkId,
    "network"
);
id_type!(
    /// Names a container's place on a network.
    EndpointId,
    "endpoint"
);

/// The first twelve characters, as people write ids.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn is_id(text: &str) -> bool {
    text.len() == LEN
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_what_random_bits_make() {
        let id = ContainerId::from_random([0xab; 32]);
        assert_eq!(id.as_str(), "ab".repeat(32));
        assert_eq!(ContainerId::parse(id.as_str()).unwrap(), id);
        assert_eq!(short(id.as_str()), "abababababab");
    }

    #[test]
    fn anything_that_could_be_a_path_is_no_id() {
        for text in [
            "",
            "..",
            "../../x",
            "abc",
            &"G".repeat(64),
            &"a/".repeat(32),
            &"a".repeat(65),
        ] {
            assert!(SandboxId::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
