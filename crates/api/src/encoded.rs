//! Lists of records that are encoded one by one.
//!
//! On the wire a repeated message and repeated bytes are the same. With thousands of containers,
//! most of which have not changed since they were last listed, a list is put together from what was
//! encoded then.

use prost::bytes::Bytes;
use prost::{DecodeError, Message};

use crate::cri::v1::{Container, PodSandbox};

/// `ListContainersResponse`; each entry is a `Container`.
#[derive(Clone, PartialEq, Message)]
pub struct EncodedContainers {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub containers: Vec<Bytes>,
}

/// `ListPodSandboxResponse`; each entry is a `PodSandbox`.
#[derive(Clone, PartialEq, Message)]
pub struct EncodedPods {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub items: Vec<Bytes>,
}

impl EncodedContainers {
    /// # Errors
    /// For the first entry that is none.
    pub fn decoded(self) -> Result<Vec<Container>, DecodeError> {
        self.containers.into_iter().map(Container::decode).collect()
    }
}

impl EncodedPods {
    /// # Errors
    /// For the first entry that is none.
    pub fn decoded(self) -> Result<Vec<PodSandbox>, DecodeError> {
        self.items.into_iter().map(PodSandbox::decode).collect()
    }
}
