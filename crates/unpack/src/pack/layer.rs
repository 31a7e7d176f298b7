//! An overlay's upper directory to a layer, in the form of the OCI image-spec.

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::Stat;

use super::archive::{Archive, Packed, failed};
use crate::error::Result;
use crate::path::{OPAQUE, WHITEOUT, split};
use crate::upper::{self, Upper, Visitor};

/// Packs the changes that an upper directory makes, as a layer.
///
/// The same changes give the same bytes: names in order, nothing of the host's, times in seconds.
/// Attributes of the overlay are not packed; whiteouts and opaque directories become the files that
/// stand for them. The root has an entry only if it looks other than an unpacked layer's does that
/// has none (0755, root).
///
/// Nothing is younger than `latest`, in seconds since 1970, where there is one.
pub fn pack_layer(upper: &Upper<'_>, latest: Option<u64>, out: impl Write) -> Result<Packed> {
    let latest = latest.and_then(|latest| i64::try_from(latest).ok());
    let mut layer = Layer(Archive::new(out).no_younger_than(latest.unwrap_or(i64::MAX)));
    let fail = |errno| failed(b"/", errno);
    let root = rustix::fs::fstat(upper.dir).map_err(fail)?;
    if (root.st_mode & 0o7777, root.st_uid, root.st_gid) != (0o755, 0, 0) {
        let dir = rustix::io::fcntl_dupfd_cloexec(upper.dir, 3).map_err(fail)?;
        layer.0.directory(&dir, &root, b"./")?;
    }
    upper::walk(upper, &mut layer)?;
    layer.0.finish()
}

struct Layer<W>(Archive<W>);

impl<W: Write> Visitor for Layer<W> {
    fn directory(
        &mut self,
        path: &[u8],
        dir: &OwnedFd,
        stat: &Stat,
        _below: Option<&Stat>,
        opaque: bool,
    ) -> Result<()> {
        self.0.directory(dir, stat, path)?;
        match opaque {
            true => self.0.marker(&[path, b"/", OPAQUE].concat(), Some(stat)),
            false => Ok(()),
        }
    }

    fn object(
        &mut self,
        path: &[u8],
        handle: &OwnedFd,
        stat: &Stat,
        _below: Option<&Stat>,
    ) -> Result<()> {
        self.0.object(handle, stat, path)
    }

    fn gone(&mut self, path: &[u8]) -> Result<()> {
        let marker = match split(path) {
            (b"", name) => [WHITEOUT, name].concat(),
            (parent, name) => [parent, b"/", WHITEOUT, name].concat(),
        };
        self.0.marker(&marker, None)
    }

    /// The mark of the directory says it.
    fn covered(&mut self, _path: &[u8]) -> Result<()> {
        Ok(())
    }
}
