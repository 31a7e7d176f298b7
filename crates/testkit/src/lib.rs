//! Fixtures for tests
