//! What criu is told and asked.
//!
//! A dump is one run of its command line ([`dump`]). A restore is a conversation ([`Conversation`])
//! with `criu swrk`, because only there it tells how far it is, hands out terminals, and waits:
//! before the restored processes go on, whoever ordered the restore looks at what they have become.
//!
//! What lies outside of a container is named in its images by keys, which are the same on both
//! sides ([`outside`]): a mount by its place in the container, a namespace by its kind, a stream by
//! what `/proc/<pid>/fd` called it.

mod conversation;
pub mod dump;
pub mod images;
pub mod log;
mod message;
pub mod outside;
mod program;

pub use conversation::{Conversation, Event, Failure};
pub use message::Restore;
pub use program::find;
