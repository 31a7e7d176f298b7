//! SPDY/3.1 as far as its clients here use it: streams that they open, data, and pings.
//!
//! After the SPDY/3 and 3.1 drafts. Flow control of 3.1 is not done: the only SPDY client left,
//! Kubernetes' own, neither sends nor heeds window updates.

mod connection;
mod dictionary;
mod frame;
mod headers;

pub use connection::{Stream, read, write};
