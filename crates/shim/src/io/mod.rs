//! Standard streams: where they come from, and who moves the bytes.

pub mod log;
pub mod logger;
pub mod pump;
pub mod pumps;
pub mod stdio;
