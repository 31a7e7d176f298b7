//! The daemon's side of a shim
