//! The unsafe room: typed wrappers of the Linux calls that a runtime needs
