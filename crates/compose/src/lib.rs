//! The Compose specification: files to a [`Project`] that is complete and agrees with itself.
//!
//! A file is read into nodes that know their places ([`node`]), its variables are replaced, each
//! value is held against its shape ([`shape`], [`schema`]) and short forms are made long; then files
//! are laid over each other, and names are given to what has none. Everything that differs between
//! fields stands in one table, from which the stock client's hash ([`hash`]) follows as well.
//!
//! Nothing here talks to a daemon.

pub mod check;
mod complete;
pub mod develop;
pub mod dotenv;
pub mod error;
pub mod files;
pub mod hash;
pub mod interpolate;
pub mod load;
pub mod merge;
pub mod node;
pub mod order;
pub mod ports;
pub mod project;
pub mod quantity;
pub mod read;
pub mod schema;
pub mod shape;
pub mod short;
pub mod show;
pub mod words;
pub mod yaml;

pub use error::{At, Error, Result};
pub use files::Options;
pub use project::{Condition, Dependency, Part, Project, Service};
