//! Exec, attach and port-forward: the streams that the CRI hands out URLs for.
//!
//! ```text
//!   CRI call ──▶ tokens ──▶ URL ──▶ client ──▶ server ──▶ handshake
//!                                                            │
//!                            SPDY/3.1 (spdy) ──┐             │ upgrade
//!                            WebSocket        ─┼─▶ mux ──▶ link ──▶ session (exec, attach)
//!                            SPDY in WebSocket ┘                └─▶ forward (port-forward)
//! ```
//!
//! What runs behind a stream is the [`Backend`]'s. One connection is one task; everything that it
//! needs is a value of that task, so that a client which goes away leaves nothing: the task ends,
//! and what it held hangs up by being dropped.
//!
//! Both protocols are those of the kubelet's own server: names and behaviour after
//! `k8s.io/cri-streaming`, and for v5 of the channel protocol after KEP-4006.

mod backend;
mod error;
mod forward;
mod handshake;
mod link;
mod mux;
mod presence;
mod request;
mod server;
mod session;
mod spdy;
mod status;
mod tokens;
mod tunnel;
mod websocket;

pub use backend::{Attached, Backend, Control, Failure, Input, Output, Size};
pub use berth_tls::Tls;
pub use error::{Error, Result};
pub use request::{Attach, Exec, PortForward, Request, Streams};
pub use server::{Config, Server, Urls};
