//! Durable records: images, references, leases, pods, containers, networks and the daemon's state.
//!
//! The engine below is sled; no other crate sees it, because its own promises are weaker than what
//! callers need. This crate adds them:
//!
//! - **Durable means synced.** [`Store::commit`] acknowledges after the batch is in a journal of
//!   our own and `fdatasync` of it has returned. sled's `flush` stops short of that; its file is
//!   synced by us now and then, and what it lacks after a crash is applied from the journal.
//! - **A damaged database is rebuilt**, from one of the exports that the store makes of itself and
//!   the journal behind it; the damaged one is kept aside.
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
//!  callers ── commit(batch) ──► commit thread: gather ► side files ► journal ► fdatasync
//!     ▲                                                   ► transaction ─┐
//!     └────────────────────────── acknowledgement ◄──────────────────────┘
//! ```
//!
//! Reads are answered from the engine's cache and see a batch once the commit thread has applied
//! it: before its acknowledgement at the latest.

mod batch;
mod commit;
mod disk;
mod engine;
mod error;
mod export;
mod exporter;
mod exports;
mod inspect;
mod journal;
mod meters;
mod migrate;
mod open;
mod restore;
pub mod schema;
mod space;
mod store;
mod table;
mod value;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod store_tests;

pub use batch::Batch;
pub use commit::Commit;
pub use error::Error;
pub use export::{Summary, verify};
pub use inspect::Report;
pub use meters::Meters;
pub use open::Options;
pub use restore::Restored;
pub use store::{Scan, SetAside, Store};
pub use table::{Key, Table};
