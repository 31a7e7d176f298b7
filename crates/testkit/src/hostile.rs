//! What images and registries send to harm a node, or to be understood by halves.

pub mod documents;
pub mod escapes;
mod extensions;
mod headers;
mod paths;
mod sparse;

/// An archive whose meaning is doubtful: its name, its bytes, and what the error has to say.
pub type Doubtful = (&'static str, Vec<u8>, &'static str);

/// Archives that have to be refused.
pub fn doubtful() -> Vec<Doubtful> {
    [
        headers::cases(),
        extensions::cases(),
        sparse::cases(),
        paths::cases(),
    ]
    .concat()
}
