//! Fixtures for tests

pub mod archive;
pub mod hostile;
pub mod image;
pub mod mutate;
pub mod registry;
