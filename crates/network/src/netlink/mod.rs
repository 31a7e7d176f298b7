//! Talking to the kernel's network: message format, sockets, and what is asked of rtnetlink.

mod channel;
mod route;
mod shaping;
pub(crate) mod wire;

pub(crate) use channel::Channel;
pub use channel::Refusal;
pub(crate) use route::{LinkInfo, Move, Route, VethPlan};
