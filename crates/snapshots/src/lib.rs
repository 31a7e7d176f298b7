//! Image layers and writable layers
