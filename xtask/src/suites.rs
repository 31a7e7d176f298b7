//! Clients of others that drive a private daemon from outside.

pub mod berth;
mod checks;
pub mod containerd;
pub mod crash;
pub mod crictl;
pub mod critest;
pub mod docker;
pub mod fixtures;
pub mod handlers;
pub mod hostile;
pub mod kubelet;
pub mod node;
pub mod oci;
pub mod trace;
pub mod vm;
