//! Bad input for every call of the contract: fields out of range, ids of another kind, calls in the
//! wrong order, cancelled half-way, and made twice at once.
//!
//! Whatever is asked, the daemon answers within its time and with a status that says whose fault it
//! is, stays the same process, and holds nothing afterwards that it did not hold before.

mod calls;
mod fields;
mod order;
mod races;
mod spoil;
mod wire;

use super::Part;

pub const CASES: &[(&str, Part)] = &[
    (
        "a field out of range, in every field of every call",
        fields::all,
    ),
    (
        "an id of another kind, in every call that takes one",
        order::kinds,
    ),
    ("calls in the wrong order", order::order),
    ("calls that are cancelled half-way", races::cancelled),
    ("the same call twice at once", races::twice),
    ("bytes that are no message, in every call", fields::garbage),
];
