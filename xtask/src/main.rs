//! The commands of the house: `cargo xtask demo`, `test`, `bench`, `lint`.
fn main() {}
