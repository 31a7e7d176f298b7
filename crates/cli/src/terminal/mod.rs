//! Between a person's terminal and a container's process.

mod frames;
mod keys;
mod raw;
mod session;
mod signals;

pub use frames::{Frames, Side};
pub use keys::{DetachKeys, chosen as chosen_keys};
pub use raw::{Raw, is_terminal_input, is_terminal_output, read_secret, restore};
pub use session::{Ended, Session, show_answer};
pub use signals::{Resized, forward, forward_nothing};
