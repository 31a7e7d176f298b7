//! Pod networks: CNI and the built-in bridge
