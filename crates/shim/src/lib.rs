//! The process that owns one container.
//!
//! `containerd-shim-berth-v1` makes the container with the executor, is the
//! parent of its processes and the subreaper of their orphans, holds their
//! standard streams and writes their log, and answers the containerd Task API
//! over ttrpc. It outlives the daemon; when the container was deleted and
//! `Shutdown` was called, or nobody has talked to it for a minute while it holds
//! no container, it ends.
//!
//! One thread does everything: [`server`] waits, [`wire`] and [`dispatch`] speak
//! ttrpc, [`service`] keeps the books, [`io`] moves output, and [`engine`] is the
//! seam behind which containers are made.
//!
//! # How it is started
//!
//! * `serve` with a listening Unix socket as standard input (or as descriptor 3):
//!   what Berth's daemon does, and what `start` does with itself.
//! * `zygote` with a socket on which it is told to copy itself, see [`zygote`]: how
//!   the daemon starts most shims.
//! * `copy` likewise, for a container that another shim runs, see [`copy`].
//! * `start` and `delete` as containerd does, see [`start`] and [`cleanup`]; what happens then is
//!   told to it, see [`events`] and [`publisher`].
//! * `-info` as containerd does before either, see [`info`].
//!
//! # What happens when it is killed
//!
//! The container's processes stay, without anyone to reap or to log them.
//! Whoever notices the loss of the connection runs `delete`, which kills them by
//! their cgroup and gives back what the container occupied.
//!
//! # How it is built
//!
//! Static, without relocations, by its own profile:
//!
//! ```text
//! RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
//!   cargo build -p containerd-shim-berth-v1 --profile shim --target x86_64-unknown-linux-gnu
//! ```
//!
//! An idle shim then occupies well below a megabyte that it does not share.

pub mod args;
pub mod cleanup;
pub mod connection;
pub mod copy;
pub mod descendants;
pub mod dispatch;
pub mod dump;
pub mod engine;
pub mod events;
pub mod exit_record;
pub mod info;
pub mod io;
pub mod journal;
pub mod metrics;
pub mod oci;
pub mod poller;
pub mod process;
pub mod publisher;
pub mod reap;
pub mod serve;
pub mod server;
pub mod service;
pub mod signals;
pub mod start;
pub mod status;
pub mod wire;
pub mod zygote;
