//! `berthd`: the node's container runtime daemon.
fn main() {}
