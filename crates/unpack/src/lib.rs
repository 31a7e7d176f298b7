//! Layer stream to directory tree
