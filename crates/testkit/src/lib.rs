//! Fixtures for tests

pub mod image;
pub mod registry;
