//! Fixtures for tests

pub mod image;
