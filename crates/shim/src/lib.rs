//! The process that owns one container
