//! The form that a value has: what it may be, how short forms become long ones, how an override
//! meets it, and how it is written for the hash.

use crate::error::{Path, Result};
use crate::node::Node;
use crate::read::Reader;

/// Makes the long form of what stands there, or leaves it.
pub type LongForm = fn(&Node, &Path, &Reader<'_>) -> Result<Node>;

#[derive(Debug)]
pub enum Shape {
    Text,
    Int,
    /// Decimal fractions, of single precision.
    Number,
    Bool,
    /// Bytes, with or without a unit.
    Size,
    Duration,
    /// Permissions, in octal.
    Mode,
    /// A file here, from the directory of the project.
    File,
    /// The same, or an address.
    Context,
    /// A list of words, or a line as for a shell. Replaced as a whole.
    Command,
    /// A check of health: the same, but a line is for the container's shell.
    Test,
    /// `NAME=value` lines or a mapping; nothing is the empty text.
    Mapping,
    /// The same, but a name without a value keeps having none.
    Environment,
    /// `host=address` lines or a mapping.
    Hosts,
    Ulimit,
    Any,
    Object(&'static [Field]),
    /// The same, for what belongs to its `driver`: another driver replaces all of it.
    Driver(&'static [Field]),
    Map(&'static Shape),
    List(&'static Shape, Key),
    Short(LongForm, &'static Shape),
}

/// What makes two entries of a list the same one, of which the later stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    None,
    /// The word up to its `=`.
    Word,
    Target,
    Port,
    Path,
    Subnet,
    /// Where a secret or a config goes.
    Grant,
}

#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub keep: Keep,
    /// What the hash calls it.
    pub json: &'static str,
}

/// When the hash has a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// When it is there and not empty.
    Full,
    /// When it is there.
    Given,
    /// Always: as null, or an empty object.
    AsNull,
    AsObject,
}

pub const fn field(name: &'static str, shape: Shape) -> Field {
    Field {
        name,
        shape,
        keep: Keep::Full,
        json: name,
    }
}

impl Field {
    pub const fn keep(self, keep: Keep) -> Self {
        Self {
            name: self.name,
            shape: self.shape,
            keep,
            json: self.json,
        }
    }

    pub const fn json(self, json: &'static str) -> Self {
        Self {
            name: self.name,
            shape: self.shape,
            keep: self.keep,
            json,
        }
    }
}
