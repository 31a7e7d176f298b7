//! What an overlay's upper directory changes, told by paths.

use std::os::fd::OwnedFd;

use rustix::fs::Stat;

use crate::error::Result;
use crate::upper::{self, Upper, Visitor};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Modified,
    Added,
    Deleted,
}

/// Tells every change to `tell`, parents first: a directory is modified if it looks other than
/// before, or something in it is. What follows from the deletion of a directory is not told.
pub fn changes(
    upper: &Upper<'_>,
    tell: impl FnMut(Change, &[u8]) -> std::io::Result<()>,
) -> Result<()> {
    upper::walk(upper, &mut Told(tell))
}

struct Told<F>(F);

impl<F: FnMut(Change, &[u8]) -> std::io::Result<()>> Told<F> {
    fn tell(&mut self, change: Change, path: &[u8]) -> Result<()> {
        (self.0)(change, path).map_err(crate::Error::Sink)
    }

    fn there(&mut self, path: &[u8], below: Option<&Stat>) -> Result<()> {
        match below {
            Some(_) => self.tell(Change::Modified, path),
            None => self.tell(Change::Added, path),
        }
    }
}

impl<F: FnMut(Change, &[u8]) -> std::io::Result<()>> Visitor for Told<F> {
    fn directory(
        &mut self,
        path: &[u8],
        _dir: &OwnedFd,
        _stat: &Stat,
        below: Option<&Stat>,
        _opaque: bool,
    ) -> Result<()> {
        self.there(path, below)
    }

    fn object(
        &mut self,
        path: &[u8],
        _handle: &OwnedFd,
        _stat: &Stat,
        below: Option<&Stat>,
    ) -> Result<()> {
        self.there(path, below)
    }

    fn gone(&mut self, path: &[u8]) -> Result<()> {
        self.tell(Change::Deleted, path)
    }

    fn covered(&mut self, path: &[u8]) -> Result<()> {
        self.tell(Change::Deleted, path)
    }
}
