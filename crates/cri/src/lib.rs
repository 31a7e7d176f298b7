//! The CRI door
