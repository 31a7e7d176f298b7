//! Layers unpacked by a process that can reach nothing but the layer.
//!
//! A layer comes from strangers, and decoders and parsers have bugs. So the daemon does not run them:
//! for each layer it starts a small program that decompresses, parses, hashes and writes.
//!
//! ```text
//!  daemon                                     worker: `berth-unpack layer`
//!    start ── socket, pipe ─────────────────▶ its own namespaces
//!    the layer's directory as a mount ──────▶ an empty root, few capabilities, limits, a filter
//!    the layer's bytes, as they come ───────▶ unpacks
//!    marks it, if it is of the layer ◀─────── a directory that is to be opaque
//!    `Applied` or the reason ◀─────────────── ends
//! ```
//!
//! The worker is given the layer's directory as a detached mount of its own: there is no `..` out of
//! it, devices in it cannot be opened, programs in it not started. It may change owners, modes and
//! file capabilities and make device nodes; `trusted.` attributes, which OverlayFS believes, are not
//! for it to set. One worker unpacks one layer: one that was taken over has nothing else to spoil.
//! What it answers is taken as a stranger's word.
//!
//! When the daemon dies, so does the worker. When the worker dies, the layer is a draft that was
//! given up, as after any other failure.

mod answer;
mod confinement;
mod filter;
mod process;
mod unpacker;
mod worker;

pub use confinement::shut_in;
pub use unpacker::{Program, Unpacker, layer};
pub use worker::{is_asked_for, serve};

/// The argument by which a program is asked to be a worker.
const ARGUMENT: &str = "layer";
