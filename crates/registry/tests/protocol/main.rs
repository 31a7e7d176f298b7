//! The client against registries: the faulty one of the testkit, and Debian's `docker-registry`.

#![allow(
    clippy::unwrap_used,
    reason = "fixtures outside of test functions fail the test too"
)]

mod auth;
mod blobs;
mod debian;
mod fixture;
mod manifests;
mod mirrors;
mod tls;
