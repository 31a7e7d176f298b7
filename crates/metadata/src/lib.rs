//! Durable records: images, references, leases, pods, containers, networks and the daemon's state.
//!
//! The engine below is sled; no other crate sees it, because its own promises are weaker than what
//! callers need. This crate adds them:
//!
//! - **Durable means synced.** [`Store::commit`] acknowledges after the batch is in the database
//!   file and our own `fdatasync` of that file has returned (sled's `flush` stops short of it).
//! - **A batch is atomic** over all tables, across crashes too.
//! - **A failed sync is fatal.** What the kernel dropped cannot be synced by trying again, so the
//!   store poisons itself, tells its owner through [`Options::on_fatal`], and refuses every later
//!   call; the daemon exits and opens anew.
//! - **A full disk is not fatal.** Additions are refused before the engine sees them while removals
//!   still work, from space that was set aside at creation.
//! - **One bad record stops nothing.** What cannot be decoded is moved to a table of its own and
//!   reported by [`Store::set_aside`].
//!
//! ```text
//!  callers ── commit(batch) ──► commit thread: gather ► side files ► transaction ► flush
//!     ▲                                                              ► fdatasync ─┐
//!     └────────────────────────── acknowledgement ◄───────────────────────────────┘
//! ```
//!
//! Reads are answered from the engine's cache and see a batch once the commit thread has applied
//! it: before its acknowledgement at the latest.

mod batch;
mod commit;
mod engine;
mod error;
mod open;
pub mod schema;
mod space;
mod store;
mod table;
mod value;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod store_tests;

pub use batch::Batch;
pub use commit::Commit;
pub use error::Error;
pub use open::Options;
pub use store::{Scan, SetAside, Store};
pub use table::{Key, Table};
