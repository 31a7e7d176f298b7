//! Wire types of the doors and nothing else: generated, but for two lists ([`encoded`]).
//!
//! The sources are the contracts under `proto/`; their comments become the
//! documentation of the types here.

pub mod encoded;

/// Kubernetes Container Runtime Interface.
pub mod cri {
    /// Package `runtime.v1`.
    #[allow(deprecated)]
    #[allow(clippy::all, clippy::unwrap_used, clippy::expect_used)]
    #[allow(rustdoc::all)]
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
}

/// The encoded `google.protobuf.FileDescriptorSet` of every contract above, for
/// reflection and for tests that compare contracts.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
